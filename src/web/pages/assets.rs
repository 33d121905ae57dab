//! Style sheet and icon, inside the binary. Their address carries a digest of their content, so that a browser keeps them
//! for a year and still sees a new version at once.

use std::fmt::Write;
use std::sync::LazyLock;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "static/"]
struct Files;

/// Address of the style sheet.
pub static CSS: LazyLock<String> = LazyLock::new(|| address("app.css"));
/// Address of the icon.
pub static ICON: LazyLock<String> = LazyLock::new(|| address("mark.svg"));

/// Eight bytes of a SHA-256: enough to tell versions apart, short enough for every page.
fn digest(hash: [u8; 32]) -> String {
    hash[..8].iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn address(name: &str) -> String {
    match Files::get(name) {
        Some(file) => format!("/static/{}/{name}", digest(file.metadata.sha256_hash())),
        None => format!("/static/-/{name}"),
    }
}

/// `GET /static/{digest}/{name}`. An old digest (a page from before an update) gets the present content, kept shortly.
pub async fn serve(path: web::Path<(String, String)>) -> HttpResponse {
    let (wanted, name) = path.into_inner();
    let Some(file) = Files::get(&name) else {
        return HttpResponse::NotFound().finish();
    };
    let kept = if wanted == digest(file.metadata.sha256_hash()) {
        "public, max-age=31536000, immutable"
    } else {
        "public, max-age=60"
    };
    let kind = match name.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "application/octet-stream",
    };
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, kind))
        .insert_header((header::CACHE_CONTROL, kept))
        .body(file.data.into_owned())
}

/// `GET /favicon.ico`, which browsers ask for when a page is not HTML.
pub async fn favicon() -> HttpResponse {
    HttpResponse::Found()
        .insert_header((header::LOCATION, ICON.as_str()))
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_embedded_and_ask_nobody_else() {
        assert!(CSS.ends_with("/app.css") && !CSS.contains("/-/"), "{}", *CSS);
        assert!(ICON.ends_with("/mark.svg") && !ICON.contains("/-/"));
        let css = Files::get("app.css")
            .map(|f| f.data.into_owned())
            .unwrap_or_default();
        let css = String::from_utf8(css).unwrap();
        assert!(!css.contains("url(") && !css.contains("@import"));
    }
}
