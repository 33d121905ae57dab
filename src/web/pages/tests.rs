//! Pages from sample data, without databases. With `PAGES_OUT=directory` they are written there, to be looked at.

use std::time::{Duration, SystemTime};

use askama::Template;

use super::conflict::{self, Versions};
use super::frame::{Asked, Frame, Place};
use super::items::Items;
use super::list::{ListView, around};
use super::rows;
use super::servers::Servers;
use super::subject::Subject;
use super::{cluster, csv, session, trouble};
use crate::items::Item;
use crate::listing::{ErrorCode, FieldErrors, ListQuery, Page, Total};
use crate::multipool::{
    Event, Glance, Happened, NotApplied, OpId, PerSide, Progress, Reason, SideFault, SideId, SideSet,
    SideState, SideStatus, Status,
};
use crate::servers::Server;
use crate::session::Flash;
use crate::web::lang::Lang;

const EVIL: &str = "<script>alert('x')</script>\"&amp;";

/// A pool of two sides in these states.
pub(super) fn status(a: SideState, b: SideState) -> Status {
    let states = [a, b];
    let sides = PerSide::new(2, |side| {
        let state = states[side.index()];
        let open_rows = match state {
            SideState::Active => 0,
            _ => 1234,
        };
        SideStatus {
            state,
            leader: side.index() == 0 && state == SideState::Active,
            fault: (state == SideState::Out).then(|| SideFault::Down("connection refused".into())),
            address: format!("127.0.0.1:5443{}/cluster_session_{side}", side.index()),
            server_version: Some("15.19 (Debian 15.19-0+deb12u1)".into()),
            heartbeat_ms: (state != SideState::Out).then_some(0.84),
            seen_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000)),
            open_rows: Some(open_rows),
            caught_up_keys: if state == SideState::CatchingUp { 4321 } else { 0 },
            rebuild: (state == SideState::Rebuilding).then(|| Progress {
                table: "items".into(),
                rows: 120_000,
                about: 1_000_000,
            }),
        }
    });
    let members: SideSet = sides
        .ids()
        .filter(|side| sides[*side].state == SideState::Active)
        .collect();
    let writable = !members.is_empty();
    let b = SideId::from_index(1).unwrap();
    let event = |ago: u64, epoch, what| Event {
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000 - ago),
        epoch,
        what,
    };
    Status {
        instance: "web1".into(),
        epoch: 7,
        members,
        leader: members.leader(),
        writable,
        refusal: (!writable).then_some(NotApplied::NoSide),
        sides,
        votes: crate::multipool::Votes::default(),
        open_conflicts: 0,
        held_changes: 0,
        certificate: None,
        waiting_writes: 2,
        events: vec![
            event(95, 6, Happened::CaughtUp { side: b, keys: 1_800 }),
            event(
                3,
                7,
                Happened::Changed {
                    why: vec![Reason::Fault(b, SideFault::Down("connection refused".into()))],
                    members: SideSet::first(1),
                },
            ),
        ],
    }
}

fn frame(lang: Lang, place: Place, status: &Status, flashes: Vec<Flash>) -> Frame {
    let asked = Asked {
        lang,
        address: Some(("/items", "search=x")),
        flashes,
    };
    let glance = Glance {
        instance: status.instance.clone(),
        epoch: status.epoch,
        members: status.members,
        refusal: status.refusal.clone(),
        states: status.sides.map(|_, of| of.state),
    };
    Frame::new(place, &glance, SideId::from_index(0), asked)
}

fn whole(lang: Lang, place: Place) -> Frame {
    frame(
        lang,
        place,
        &status(SideState::Active, SideState::Active),
        Vec::new(),
    )
}

fn one_out(lang: Lang, place: Place) -> Frame {
    let id = ("id".to_owned(), "25".to_owned());
    let flash = Flash {
        code: "items.created".into(),
        params: [id].into(),
    };
    frame(
        lang,
        place,
        &status(SideState::Active, SideState::Out),
        vec![flash],
    )
}

/// Renders a page, checks what every page promises, and keeps it if somebody wants to look at it.
pub(super) fn render(name: &str, page: &impl Template) -> String {
    let html = page.render().unwrap();
    for forbidden in [
        "<script",
        " style=",
        "<style",
        " onclick",
        "http://",
        "https://",
        "javascript:",
    ] {
        assert!(!html.contains(forbidden), "{name} contains {forbidden}");
    }
    for tag in [
        "div", "p", "form", "a", "span", "ul", "table", "tr", "td", "th", "dl", "section", "main",
    ] {
        let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(
            opened,
            html.matches(&format!("</{tag}>")).count(),
            "{name}: <{tag}>"
        );
    }
    assert!(!html.contains("{0}") && !html.contains("{1}"), "{name}");
    if let Ok(directory) = std::env::var("PAGES_OUT") {
        let css = include_str!("../../../static/app.css");
        let link = format!(
            "<link rel=\"stylesheet\" href=\"{}\">",
            super::assets::CSS.as_str()
        );
        let shown = html.replace(&link, &format!("<style>{css}</style>"));
        let shown = shown.replace("http-equiv=\"refresh\"", "name=\"was-refresh\"");
        std::fs::write(format!("{directory}/{name}.html"), shown).unwrap();
    }
    html
}

fn item(id: i32, name: &str, content: Option<&str>) -> Item {
    Item {
        id,
        name: name.into(),
        content: content.map(str::to_owned),
        updated_at: Some("2026-11-20T19:35:07.123456".into()),
    }
}

fn list_view<S: Subject>(f: Frame, query: &ListQuery, rows: &Page<S::Row>) -> ListView {
    let s = S::texts(f.lang);
    ListView {
        l: around(f.lang, &S::base(), S::COLUMNS, s.empty, query, rows),
        f,
        s,
        base: S::base(),
    }
}

fn page_of<R>(rows: Vec<R>) -> Page<R> {
    Page {
        rows,
        total: Total::About(61_000),
        next: Some("ab".into()),
        previous: Some("cd".into()),
    }
}

#[test]
fn lists() {
    let names = [
        "Ny anarana malagasy",
        "Δοκιμή",
        "名前のある項目",
        "اسم العنصر",
        "Größe & Maß",
        "שלום עולם",
        EVIL,
        "averyveryverylongwordwithoutanyspaceinitthatmustnotbreakthelayoutofthephoneaveryveryverylongword",
    ];
    let content =
        "A paragraph that says something about this entry, long enough to be cut somewhere. ".repeat(4);
    let items = (1..=25).map(|id| {
        item(
            id,
            names[id as usize % names.len()],
            (id % 5 != 0).then_some(&content),
        )
    });
    let query = ListQuery {
        sort: "name".into(),
        descending: true,
        search: EVIL.into(),
        ..ListQuery::default()
    };
    let rows = page_of(items.collect());
    for (lang, name) in [(Lang::En, "items"), (Lang::Fr, "items_fr")] {
        let view = list_view::<Items>(one_out(lang, Place::Items), &query, &rows);
        let html = render(name, &Items::list_page(view, rows.rows.clone()));
        assert!(html.contains("&#60;script&#62;alert"), "escaped");
        assert!(html.len() < 30_000, "{} bytes", html.len());
        assert!(html.contains("aria-sort=\"descending\""));
        assert!(html.contains("order=desc&#38;cursor=ab"), "pages keep the order");
        assert!(html.contains("search=%3Cscript%3E"), "pages keep the search");
    }
    let server = |id: i32| Server {
        id,
        name: names[id as usize % 6].to_owned(),
        host: format!("node{id}.example.mg"),
        port: 5432 + id,
        active: [Some(true), Some(false), None][id as usize % 3],
        created_at: Some("2026-01-02T03:04:05.000000".into()),
    };
    let rows = page_of((1..=25).map(server).collect());
    let query = ListQuery::default();
    let view = list_view::<Servers>(whole(Lang::En, Place::Servers), &query, &rows);
    let html = render("servers", &Servers::list_page(view, rows.rows.clone()));
    assert!(html.len() < 30_000, "{} bytes", html.len());
    assert_eq!(html.matches("role=\"switch\"").count(), 25);
    let none = Page {
        rows: Vec::new(),
        total: Total::Exactly(0),
        next: None,
        previous: None,
    };
    let view = list_view::<Servers>(whole(Lang::Fr, Place::Servers), &query, &none);
    let html = render("servers_empty", &Servers::list_page(view, Vec::new()));
    assert!(html.contains("Aucun serveur"));
}

#[test]
fn forms_keep_what_was_typed() {
    let mut errors = FieldErrors::one("name", ErrorCode::Required);
    errors.push("port", ErrorCode::OutOfRange { min: 1, max: 65535 });
    let values = vec![
        ("name", String::new()),
        ("host", EVIL.to_owned()),
        ("port", "70000".to_owned()),
        ("active", "true".to_owned()),
    ];
    let html = rows::sample_form::<Servers>(one_out(Lang::Fr, Place::Servers), values, errors);
    let html = render("server_form", &html);
    assert!(html.contains("value=\"70000\"") && html.contains("aria-invalid=\"true\""));
    assert!(html.contains("value=\"&#60;script") && html.contains(" checked"));
    assert!(html.contains("Un port est un nombre de 1 à 65535."));
    let values = vec![
        ("name", "Ny anarana".to_owned()),
        ("content", "\nfirst line is empty".to_owned()),
    ];
    let form = rows::sample_form::<Items>(whole(Lang::En, Place::Items), values, FieldErrors::default());
    // A parser drops one line end after the tag: the text's own first one must survive.
    assert!(render("item_form", &form).contains(">\n\nfirst line is empty</textarea>"));
    let row = item(25, EVIL, Some("Two\nlines"));
    render(
        "item",
        &rows::sample_show::<Items>(one_out(Lang::En, Place::Items), &row),
    );
    render(
        "item_delete",
        &rows::sample_delete::<Items>(whole(Lang::En, Place::Items), &row),
    );
}

#[test]
fn conflict() {
    let typed = |name: &str, content: &str| vec![("name", name.to_owned()), ("content", content.to_owned())];
    let versions = Versions {
        id: 25,
        mine: typed("Blue house", "roof: red\nwall: white\nfloor: wood\ndoor: green"),
        was: Some(typed(
            "Blue house",
            "roof: grey\nwall: white\nfloor: wood\ndoor: brown",
        )),
        theirs: typed(
            EVIL,
            "roof: grey\nwall: white\nfloor: stone\ndoor: brown\ngarden: yes",
        ),
        now: "{\"name\":\"x\"}".into(),
    };
    let page = conflict::build::<Items>(whole(Lang::En, Place::Items), versions);
    let html = render("conflict", &page);
    assert!(html.contains("<ins>") && html.contains("<del>"));
    assert!(html.contains("&#60;script&#62;"));
    let ids: Vec<&str> = html.matches("name=\"op_id\"").collect();
    assert_eq!(ids.len(), 2);
    let versions = Versions {
        id: 3,
        mine: typed("a", "mine"),
        was: Some(typed("a", "was")),
        theirs: typed("a", "theirs"),
        now: String::new(),
    };
    let page = conflict::build::<Items>(whole(Lang::Fr, Place::Items), versions);
    assert!(render("conflict_overlap", &page).contains("&#60;&#60;&#60;&#60;&#60;&#60;&#60; le vôtre"));
}

#[test]
fn cluster_pages() {
    for (name, lang, a, b) in [
        ("cluster", Lang::En, SideState::Active, SideState::Active),
        ("cluster_out", Lang::Fr, SideState::Active, SideState::Out),
        (
            "cluster_catching",
            Lang::En,
            SideState::Active,
            SideState::CatchingUp,
        ),
        (
            "cluster_rebuilding",
            Lang::Fr,
            SideState::Active,
            SideState::Rebuilding,
        ),
        ("cluster_refused", Lang::Fr, SideState::Out, SideState::Out),
    ] {
        let status = status(a, b);
        let f = frame(lang, Place::Cluster, &status, Vec::new()).refresh_after(2, None);
        let html = render(name, &cluster::cluster_page(f, &status, true));
        assert!(
            html.contains("name=\"viewport\"") && html.contains(&format!("<html lang=\"{}\">", lang.code()))
        );
        let banners = html.matches("class=\"banner").count();
        assert_eq!(banners, usize::from(b != SideState::Active), "{name}");
        let copied = "Reconstruction : items, 120 000 lignes sur environ 1 000 000";
        let html = html.replace(['\u{a0}', '\u{202f}'], " ");
        assert_eq!(html.contains(copied), name == "cluster_rebuilding", "{html}");
    }
    let refused = frame(
        Lang::Fr,
        Place::Items,
        &status(SideState::Out, SideState::Out),
        Vec::new(),
    );
    assert!(refused.banners[0].text.contains("aucune base ne répond"));
}

#[test]
fn trouble_session_and_import() {
    let again = trouble::Again {
        action: "/items".into(),
        fields: vec![
            ("op_id".into(), OpId::new().to_string()),
            ("name".into(), EVIL.into()),
            ("content".into(), "two\nlines".into()),
        ],
        shown: vec![("Name", EVIL.into()), ("Content", "two\nlines".into())],
    };
    let html = render(
        "not_applied",
        &trouble::sample(one_out(Lang::En, Place::Items), again),
    );
    assert!(html.contains("name=\"content\" value=\"two\nlines\""));
    render("session", &session::sample(whole(Lang::En, Place::Session)));
    render("import", &csv::sample_form(whole(Lang::Fr, Place::Items)));
    for (name, stalled) in [("progress", false), ("progress_stalled", true)] {
        render(
            name,
            &csv::sample_progress(one_out(Lang::En, Place::Items), stalled),
        );
    }
}
