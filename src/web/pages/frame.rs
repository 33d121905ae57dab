//! What stands around every page: navigation, the state of the databases, banners, messages, languages.

use std::fmt;

use super::assets;
use super::links::{Link, without};
use super::words;
use crate::multipool::{Glance, SideId, SideState};
use crate::session::Flash;
use crate::web::lang::{ClusterTexts, Lang, SubjectTexts, TroubleTexts, UiTexts, fill};

/// Where in the application a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `/`
    Session,
    /// `/items`
    Items,
    /// `/servers`
    Servers,
    /// `/cluster`, `/journal`, `/compare`
    Cluster,
    /// None of them.
    Nowhere,
}

/// One link of the navigation.
#[derive(Debug)]
pub struct NavLink {
    /// Its address.
    pub href: &'static str,
    /// Its name.
    pub label: &'static str,
    /// Whether this page belongs to it.
    pub current: bool,
}

/// One side in the header.
#[derive(Debug)]
pub struct Dot {
    /// Name of the side.
    pub name: String,
    /// CSS class of its state.
    pub class: &'static str,
}

/// A coloured line of text.
#[derive(Debug)]
pub struct Message {
    /// CSS class.
    pub class: &'static str,
    /// What it says.
    pub text: String,
}

/// A link to this page in another language.
#[derive(Debug)]
pub struct Switch {
    /// The other language.
    pub lang: Lang,
    /// This page in it.
    pub href: String,
}

/// When the browser shall load again.
#[derive(Clone, Debug)]
pub struct Refresh {
    /// After so many seconds.
    pub seconds: u32,
    /// Which address; `None` is the same.
    pub url: Option<String>,
}

impl fmt::Display for Refresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.url {
            Some(url) => write!(f, "{};url={url}", self.seconds),
            None => write!(f, "{}", self.seconds),
        }
    }
}

/// Everything `base.html` needs.
#[derive(Debug)]
pub struct Frame {
    /// Language of the page.
    pub lang: Lang,
    /// Its texts.
    pub t: &'static UiTexts,
    /// Its texts for trouble.
    pub e: &'static TroubleTexts,
    /// Address of the style sheet.
    pub css: &'static str,
    /// Address of the icon.
    pub icon: &'static str,
    /// Navigation.
    pub nav: [NavLink; 4],
    /// The sides.
    pub dots: Vec<Dot>,
    /// The sides in words.
    pub pair_label: String,
    /// This page in the other languages; empty for the answer to a form, which has no address.
    pub switch: Vec<Switch>,
    /// What everybody should know now.
    pub banners: Vec<Message>,
    /// What this person should know.
    pub flashes: Vec<Message>,
    /// Whether the page loads itself again.
    pub refresh: Option<Refresh>,
    /// Instance.
    pub answered_by: String,
    /// Side that is read.
    pub read_from: String,
    /// Epoch.
    pub epoch: String,
}

/// What a request contributes to the frame.
#[derive(Debug, Default)]
pub struct Asked<'a> {
    /// Language of the answer.
    pub lang: Lang,
    /// Path and query of a page that can be loaded again.
    pub address: Option<(&'a str, &'a str)>,
    /// Messages for this person.
    pub flashes: Vec<Flash>,
}

impl Frame {
    /// The frame of a page at `place`.
    pub fn new(place: Place, glance: &Glance, reader: Option<SideId>, asked: Asked<'_>) -> Frame {
        let lang = asked.lang;
        let t = lang.ui();
        Frame {
            lang,
            t,
            e: lang.trouble(),
            css: &assets::CSS,
            icon: &assets::ICON,
            nav: navigation(lang, place),
            dots: glance
                .states
                .iter()
                .map(|(side, state)| Dot {
                    name: side.to_string(),
                    class: state_class(*state),
                })
                .collect(),
            pair_label: pair_label(lang, glance),
            switch: asked
                .address
                .map(|(path, query)| switches(lang, path, query))
                .unwrap_or_default(),
            banners: banners(lang, glance),
            flashes: messages(lang, &asked.flashes),
            refresh: None,
            answered_by: fill(t.instance, &[&glance.instance]),
            read_from: match reader {
                Some(side) => fill(t.database, &[&side]),
                None => t.no_database.to_owned(),
            },
            epoch: fill(t.epoch, &[&glance.epoch]),
        }
    }

    /// The page loads again after `seconds`, from `url` or from where it is.
    pub fn refresh_after(mut self, seconds: u32, url: Option<String>) -> Frame {
        self.refresh = Some(Refresh { seconds, url });
        self
    }
}

fn navigation(lang: Lang, place: Place) -> [NavLink; 4] {
    let t = lang.ui();
    let link = |href, label, of| NavLink {
        href,
        label,
        current: of == place,
    };
    [
        link("/items", SubjectTexts::items(lang).plural, Place::Items),
        link("/servers", SubjectTexts::servers(lang).plural, Place::Servers),
        link("/", t.nav_session, Place::Session),
        link("/cluster", t.nav_cluster, Place::Cluster),
    ]
}

/// CSS class of a state.
pub fn state_class(state: SideState) -> &'static str {
    match state {
        SideState::Active => "active",
        SideState::Out => "out",
        SideState::CatchingUp | SideState::Rebuilding => "catching",
    }
}

/// A state in words.
pub fn state_word(t: &'static ClusterTexts, state: SideState) -> &'static str {
    match state {
        SideState::Active => t.active,
        SideState::Out => t.out,
        SideState::CatchingUp => t.catching_up,
        SideState::Rebuilding => t.rebuilding,
    }
}

fn pair_label(lang: Lang, glance: &Glance) -> String {
    let t = lang.cluster();
    let states = glance.states.iter();
    let states: Vec<String> = states
        .map(|(side, state)| format!("{side} {}", state_word(t, *state)))
        .collect();
    fill(lang.ui().pair_label, &[&states.join(", ")])
}

fn switches(lang: Lang, path: &str, query: &str) -> Vec<Switch> {
    let kept = without(query, "lang").join("&");
    let address = if kept.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{kept}")
    };
    Lang::ALL
        .into_iter()
        .filter(|other| *other != lang)
        .map(|other| Switch {
            lang: other,
            href: Link::to(&address).with("lang", other.code()).build(),
        })
        .collect()
}

/// The names of sides as one reads them: `a`, `a, b`.
pub fn side_names(sides: impl Iterator<Item = SideId>) -> String {
    sides.map(|side| side.to_string()).collect::<Vec<_>>().join(", ")
}

fn banners(lang: Lang, glance: &Glance) -> Vec<Message> {
    let t = lang.ui();
    let mut banners = Vec::new();
    if let Some(why) = &glance.refusal {
        banners.push(Message {
            class: "bad",
            text: fill(t.banner_refused, &[&words::not_applied(lang, why)]),
        });
    }
    let members = side_names(glance.members.iter());
    for (side, state) in glance.states.iter() {
        let text = match state {
            SideState::Active => continue,
            // With no side left the banner above says all there is to say.
            SideState::Out if members.is_empty() || glance.refusal.is_some() => continue,
            SideState::Out => fill(t.banner_out, &[&side, &members]),
            SideState::CatchingUp => fill(t.banner_catching, &[&side]),
            SideState::Rebuilding => fill(t.banner_rebuilding, &[&side, &members]),
        };
        banners.push(Message { class: "", text });
    }
    banners
}

/// The messages in words, each once: a form sent twice by a double click leaves two.
fn messages(lang: Lang, flashes: &[Flash]) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    for message in flashes.iter().filter_map(|flash| message(lang, flash)) {
        if !messages.iter().any(|said| said.text == message.text) {
            messages.push(message);
        }
    }
    messages
}

/// A message left by an earlier request; one of an unknown kind (another version's) is not shown.
fn message(lang: Lang, flash: &Flash) -> Option<Message> {
    let t = lang.ui();
    let param = |name: &str| flash.params.get(name).map_or("", String::as_str);
    let text = match flash.code.as_str() {
        "value_saved" => fill(t.flash_value_saved, &[&param("name")]),
        "value_removed" => fill(t.flash_value_removed, &[&param("name")]),
        "session_destroyed" => t.flash_session_destroyed.to_owned(),
        code => {
            let (subject, what) = code.split_once('.')?;
            let s = match subject {
                "items" => SubjectTexts::items(lang),
                "servers" => SubjectTexts::servers(lang),
                _ => return None,
            };
            let text = match what {
                "created" => s.flash_created,
                "updated" => s.flash_updated,
                "deleted" => s.flash_deleted,
                "activated" => s.flash_activated,
                "deactivated" => s.flash_deactivated,
                _ => return None,
            };
            fill(text, &[&param("id")])
        }
    };
    Some(Message { class: "good", text })
}
