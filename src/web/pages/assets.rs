//! Style sheet and icon, inside the binary, compressed when it was built. Their address carries a digest of their content, so
//! that a browser keeps them for a year and still sees a new version at once.

use std::sync::LazyLock;

use actix_web::http::header::{self, AcceptEncoding, EntityTag, Header, IfNoneMatch};
use actix_web::{HttpRequest, HttpResponse, web};
use sha2::{Digest, Sha256};

/// A file of `static/`.
struct File {
    name: &'static str,
    plain: &'static [u8],
    /// The same, compressed.
    gzip: &'static [u8],
}

const FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// A file and what its address and its entity tags are made of.
struct Served {
    file: &'static File,
    digest: String,
}

static SERVED: LazyLock<Vec<Served>> = LazyLock::new(|| {
    let served = |file: &'static File| Served {
        file,
        digest: digest(file.plain),
    };
    FILES.iter().map(served).collect()
});

/// Address of the style sheet.
pub static CSS: LazyLock<String> = LazyLock::new(|| address("app.css"));
/// Address of the icon.
pub static ICON: LazyLock<String> = LazyLock::new(|| address("mark.svg"));

/// Eight bytes of a SHA-256: enough to tell versions apart, short enough for every page.
fn digest(content: &[u8]) -> String {
    hex::encode(&Sha256::digest(content)[..8])
}

fn find(name: &str) -> Option<&'static Served> {
    SERVED.iter().find(|served| served.file.name == name)
}

fn address(name: &str) -> String {
    let digest = find(name).map_or("-", |served| &served.digest);
    format!("/static/{digest}/{name}")
}

/// `GET /static/{digest}/{name}`. An old digest (a page from before an update) gets the present content, kept shortly.
pub async fn serve(request: HttpRequest, path: web::Path<(String, String)>) -> HttpResponse {
    let (wanted, name) = path.into_inner();
    let Some(served) = find(&name) else {
        return HttpResponse::NotFound().finish();
    };
    let kept = if wanted == served.digest {
        "public, max-age=31536000, immutable"
    } else {
        "public, max-age=60"
    };
    let kind = match name.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "application/octet-stream",
    };
    let gzip = takes_gzip(&request);
    // The two forms are different bytes, so their strong tags differ.
    let tag = match gzip {
        true => format!("{}-gz", served.digest),
        false => served.digest.clone(),
    };
    let tag = EntityTag::new_strong(tag);
    let known = match IfNoneMatch::parse(&request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(&tag)),
        Err(_) => false,
    };
    let mut answer = match known {
        true => HttpResponse::NotModified(),
        false => HttpResponse::Ok(),
    };
    answer
        .insert_header((header::CACHE_CONTROL, kept))
        .insert_header((header::VARY, "Accept-Encoding"))
        .insert_header(header::ETag(tag));
    if known {
        return answer.finish();
    }
    answer.insert_header((header::CONTENT_TYPE, kind));
    if gzip {
        answer.insert_header((header::CONTENT_ENCODING, "gzip"));
        return answer.body(served.file.gzip);
    }
    answer.body(served.file.plain)
}

/// Whether the client says that it takes gzip (not: anything).
fn takes_gzip(request: &HttpRequest) -> bool {
    let gzip = header::Encoding::Known(header::ContentEncoding::Gzip);
    AcceptEncoding::parse(request).is_ok_and(|accepted| {
        let asked = |item: &header::QualityItem<header::Preference<header::Encoding>>| {
            item.quality > header::Quality::ZERO
                && matches!(&item.item, header::Preference::Specific(encoding) if *encoding == gzip)
        };
        accepted.iter().any(asked)
    })
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
    use actix_web::body::MessageBody;
    use actix_web::http::StatusCode;
    use actix_web::test::TestRequest;

    #[test]
    fn files_are_embedded_and_ask_nobody_else() {
        assert!(CSS.ends_with("/app.css") && !CSS.contains("/-/"), "{}", *CSS);
        assert!(ICON.ends_with("/mark.svg") && !ICON.contains("/-/"));
        let css = find("app.css").map_or(&b""[..], |served| served.file.plain);
        let css = std::str::from_utf8(css).unwrap();
        assert!(!css.contains("url(") && !css.contains("@import") && css.len() > 1000);
    }

    async fn get(address: &str, headers: &[(&'static str, &str)]) -> HttpResponse {
        let parts: Vec<&str> = address.split('/').collect();
        let path = web::Path::from((parts[2].to_owned(), parts[3].to_owned()));
        let request = headers.iter().fold(TestRequest::get(), |request, header| {
            request.insert_header(*header)
        });
        serve(request.to_http_request(), path).await
    }

    fn header_of(answer: &HttpResponse, name: &str) -> String {
        let value = answer.headers().get(name);
        value.map_or("", |value| value.to_str().unwrap()).to_owned()
    }

    #[actix_web::test]
    async fn a_browser_gets_it_compressed_and_once() {
        let plain = get(&CSS, &[]).await;
        assert_eq!(header_of(&plain, "content-encoding"), "");
        let gzip = get(&CSS, &[("accept-encoding", "br, gzip;q=0.8")]).await;
        assert_eq!(header_of(&gzip, "content-encoding"), "gzip");
        for answer in [&plain, &gzip] {
            let immutable = "public, max-age=31536000, immutable";
            assert_eq!(header_of(answer, "cache-control"), immutable);
            assert_eq!(header_of(answer, "vary"), "Accept-Encoding");
        }
        let (plain_tag, gzip_tag) = (header_of(&plain, "etag"), header_of(&gzip, "etag"));
        assert_ne!(plain_tag, gzip_tag);
        let (plain, gzip) = (
            plain.into_body().try_into_bytes().unwrap(),
            gzip.into_body().try_into_bytes().unwrap(),
        );
        assert!(gzip.len() * 2 < plain.len(), "{} of {}", gzip.len(), plain.len());
        let mut unpacked = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(&gzip[..]);
        std::io::Read::read_to_end(&mut decoder, &mut unpacked).unwrap();
        assert_eq!(unpacked, plain);

        let again = get(&CSS, &[("accept-encoding", "gzip"), ("if-none-match", &gzip_tag)]).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(header_of(&again, "etag"), gzip_tag);
        assert!(again.into_body().try_into_bytes().unwrap().is_empty());
        // Another form, another version: it is sent.
        for (encoding, tag) in [("identity", &*gzip_tag), ("gzip", "\"0000000000000000-gz\"")] {
            let answer = get(&CSS, &[("accept-encoding", encoding), ("if-none-match", tag)]).await;
            assert_eq!(answer.status(), StatusCode::OK, "{encoding} {tag}");
        }
        for none in ["gzip;q=0", "*", "identity"] {
            let answer = get(&CSS, &[("accept-encoding", none)]).await;
            assert_eq!(header_of(&answer, "content-encoding"), "", "{none}");
        }
        let old = get("/static/0000000000000000/app.css", &[]).await;
        assert_eq!(header_of(&old, "cache-control"), "public, max-age=60");
        assert_eq!(
            get("/static/-/none.css", &[]).await.status(),
            StatusCode::NOT_FOUND
        );
    }
}
