//! A person with a browser: keeps cookies, reads forms, sends them; follows no redirect by itself.

use std::sync::Arc;
use std::time::Duration;

use reqwest::cookie::{CookieStore, Jar};
use reqwest::header::HeaderMap;
use reqwest::multipart::{self, Part};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

/// Names that must come back byte for byte, whatever wrote them: Malagasy, Arabic, Chinese, emoji with joiners, combining marks
/// (which must not be composed), marks of direction, and everything that means something in HTML, SQL, CSV or LIKE.
pub const NAMES: [&str; 9] = [
    "Ny fahasalaman’i Rasoanaivo sy ny à la crème – tsy misy hafa",
    "العربية مع تشكيل: مُحَمَّد",
    "中文名称「测试」㊙ 𠜎",
    "👩🏽‍💻👨‍👩‍👧‍👦🇲🇬 emoji",
    "e\u{301}a\u{323}\u{308} Z\u{351}\u{36b}alg\u{329}o",
    "\u{202b}right\u{202c} left\u{200f}\u{feff}x",
    "<b>\"bold\"</b> & 'quoted' &amp; </textarea><script>alert(1)</script>",
    "'; DROP TABLE items; -- \\ $1 %s {} , ; \"\"",
    "100%_\\ one\u{a0}two\u{2028}three\ttab",
];

/// One browser. Like a real one it sends its cookies to every port of the host, so both instances see the same person.
#[derive(Clone)]
pub struct Browser {
    http: reqwest::Client,
    jar: Arc<Jar>,
}

/// An answer.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
    url: String,
}

/// A form as it stands in a page, ready to be filled in and sent.
#[derive(Clone, Debug)]
pub struct Form {
    pub action: String,
    pub fields: Vec<(String, String)>,
}

impl Browser {
    pub fn new() -> Browser {
        let jar = Arc::new(Jar::default());
        let http = reqwest::Client::builder()
            .cookie_provider(Arc::clone(&jar))
            .redirect(Policy::none())
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        Browser { http, jar }
    }

    /// The cookies it would send to `base`.
    pub fn cookies(&self, base: &str) -> String {
        let cookies = self.jar.cookies(&base.parse().unwrap());
        cookies.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
    }

    /// Puts a cookie into its jar, as `Set-Cookie` would.
    pub fn set_cookie(&self, base: &str, cookie: &str) {
        self.jar.add_cookie_str(cookie, &base.parse().unwrap());
    }

    pub fn request(&self, method: &str, url: &str) -> RequestBuilder {
        let method: Method = method.parse().unwrap();
        self.http.request(method, url)
    }

    pub async fn get(&self, base: &str, path: &str) -> Page {
        send(self.request("GET", &format!("{base}{path}"))).await
    }

    /// A page that must be there.
    pub async fn open(&self, base: &str, path: &str) -> Page {
        let page = self.get(base, path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        page
    }

    /// Sends a form to `base`, which may be another instance than the one that showed it.
    pub async fn post(&self, base: &str, form: &Form) -> Page {
        send(
            self.request("POST", &format!("{base}{}", form.action))
                .form(&form.fields),
        )
        .await
    }

    /// Sends a form and goes where the answer leads.
    pub async fn submit(&self, base: &str, form: &Form) -> Page {
        let answer = self.post(base, form).await;
        assert_eq!(answer.status, 303, "{}: {}", form.action, answer.text());
        self.open(base, answer.header("location")).await
    }

    /// Sends a file through the upload form of a page.
    pub async fn upload(&self, base: &str, form: &Form, file: Vec<u8>) -> Page {
        let part = Part::bytes(file).file_name("a file.csv");
        let body = multipart::Form::new().part("file", part);
        send(
            self.request("POST", &format!("{base}{}", form.action))
                .multipart(body),
        )
        .await
    }

    /// A request of the API with an optional JSON body and further headers.
    pub async fn api(&self, method: &str, url: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> Page {
        let mut request = self.request(method, url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        send(request).await
    }
}

/// Sends a request that is answered, whatever the answer.
pub async fn send(request: RequestBuilder) -> Page {
    let answer = request.send().await.unwrap();
    Page {
        status: answer.status().as_u16(),
        url: answer.url().to_string(),
        headers: answer.headers().clone(),
        bytes: answer.bytes().await.unwrap().to_vec(),
    }
}

impl Page {
    /// A header, or the empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The HTML as it is.
    pub fn html(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }

    /// The page as it is read: character references resolved.
    pub fn text(&self) -> String {
        unescape(self.html())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|e| panic!("{}: no JSON ({e}): {}", self.url, self.html()))
    }

    /// Whether the page says this.
    pub fn says(&self, text: &str) -> bool {
        self.text().contains(text)
    }

    #[track_caller]
    pub fn must_say(&self, text: &str) {
        assert!(
            self.says(text),
            "{}: {} does not say `{text}`: {}",
            self.url,
            self.status,
            self.text()
        );
    }

    /// The form that is sent to `action`.
    #[track_caller]
    pub fn form(&self, action: &str) -> Form {
        self.form_where(|found| found == action)
            .unwrap_or_else(|| panic!("{}: no form to {action}: {}", self.url, self.html()))
    }

    /// The first form that is posted to an address beginning with `start`.
    #[track_caller]
    pub fn form_to(&self, start: &str) -> Form {
        self.form_where(|found| found.starts_with(start))
            .unwrap_or_else(|| panic!("{}: no form to {start}…: {}", self.url, self.html()))
    }

    fn form_where(&self, wanted: impl Fn(&str) -> bool) -> Option<Form> {
        let html = self.html();
        let mut tags = Tags { html, at: 0 };
        let form = tags.find(|tag| {
            tag.name == "form" && tag.get("method") == Some("post") && wanted(tag.get("action").unwrap_or(""))
        })?;
        let mut fields = Vec::new();
        while let Some(tag) = tags.next().filter(|tag| tag.name != "/form") {
            let value = match tag.name {
                "textarea" => {
                    let content = &html[tag.end..];
                    let content = &content[..content.find("</textarea>").unwrap()];
                    // A parser drops one line end at the beginning.
                    unescape(content.strip_prefix('\n').unwrap_or(content))
                }
                "input" => match tag.get("type") {
                    Some("file") => continue,
                    Some("checkbox") if !tag.has("checked") => continue,
                    _ => tag.get("value").unwrap_or_default().to_owned(),
                },
                _ => continue,
            };
            if let Some(name) = tag.get("name") {
                fields.push((name.to_owned(), value));
            }
        }
        let action = form.get("action")?.to_owned();
        Some(Form { action, fields })
    }

    /// The error that stands beside the field `name`.
    pub fn error_beside(&self, name: &str) -> Option<String> {
        let about = self
            .html()
            .split_once(&format!("<div id=\"{name}-about\">"))?
            .1
            .split_once("</div>")?
            .0;
        let error = about.split_once("<p class=\"error\">")?.1.split_once("</p>")?.0;
        Some(unescape(error))
    }

    /// Where the link with this `rel` leads.
    pub fn link(&self, rel: &str) -> Option<String> {
        let mut tags = Tags {
            html: self.html(),
            at: 0,
        };
        let link = tags.find(|tag| tag.name == "a" && tag.get("rel") == Some(rel))?;
        Some(link.get("href")?.to_owned())
    }

    /// Every number in a cell of class `id`, in order.
    pub fn ids(&self) -> Vec<i64> {
        let cells = self.html().split("<td class=\"id num\">").skip(1);
        cells
            .map(|cell| cell.split_once('<').unwrap().0.parse().unwrap())
            .collect()
    }
}

impl Form {
    /// With one field filled in.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Form {
        match self.fields.iter_mut().find(|(field, _)| field == name) {
            Some((_, old)) => *old = value.to_owned(),
            None => self.fields.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    /// Without one field, as an unticked box sends it.
    #[must_use]
    pub fn without(mut self, name: &str) -> Form {
        self.fields.retain(|(field, _)| field != name);
        self
    }

    /// What stands in a field.
    #[track_caller]
    pub fn get(&self, name: &str) -> &str {
        let field = self.fields.iter().find(|(field, _)| field == name);
        &field.unwrap_or_else(|| panic!("no field {name}: {self:?}")).1
    }
}

/// The tags of a page, one after the other.
struct Tags<'a> {
    html: &'a str,
    at: usize,
}

#[derive(Debug)]
struct Tag<'a> {
    name: &'a str,
    attributes: Vec<(&'a str, String)>,
    /// Where the text after it begins.
    end: usize,
}

impl Tag<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let attribute = self.attributes.iter().find(|(found, _)| *found == name);
        attribute.map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        let start = self.at + self.html[self.at..].find('<')? + 1;
        let is_space = |c: char| c.is_ascii_whitespace();
        let rest = &self.html[start..];
        let length = rest.find(|c: char| is_space(c) || c == '>')?;
        let (name, mut rest) = rest.split_at(length);
        let mut attributes = Vec::new();
        loop {
            rest = rest.trim_start_matches(is_space);
            if let Some(after) = rest.strip_prefix('>') {
                self.at = self.html.len() - after.len();
                return Some(Tag {
                    name,
                    attributes,
                    end: self.at,
                });
            }
            let length = rest.find(|c: char| is_space(c) || c == '=' || c == '>')?;
            let (attribute, after) = rest.split_at(length);
            rest = after;
            let mut value = String::new();
            if let Some(quoted) = rest.strip_prefix("=\"") {
                let (text, after) = quoted.split_once('"')?;
                value = unescape(text);
                rest = after;
            } else if length == 0 {
                rest = &rest[1..];
            }
            attributes.push((attribute, value));
        }
    }
}

/// Resolves the character references that a template engine writes.
fn unescape(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(at) = rest.find('&') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let reference = rest.split_once(';').filter(|(name, _)| name.len() < 8);
        let character = reference.and_then(|(name, _)| match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            name => {
                let number = name.strip_prefix('#')?;
                let number = match number.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => number.parse(),
                };
                char::from_u32(number.ok()?)
            }
        });
        match (character, reference) {
            (Some(character), Some((_, after))) => {
                text.push(character);
                rest = after;
            }
            _ => text.push('&'),
        }
    }
    text + rest
}
