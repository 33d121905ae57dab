//! The way of votes between instances and to the witness: one internal path, one client.
//!
//! Who asks and who answers is proved by a key that is made of `SESSION_SECRET`, which all of them share: the question is signed with a
//! random number, the answer with the question's signature. A question that is caught and sent again does no harm, because
//! votes are idempotent; it carries nothing secret. Neither bodies nor signatures are logged. HAProxy does not pass the
//! path on, and what came through a proxy is not answered.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{self, Bytes, Data, PayloadConfig, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use futures::future::BoxFuture;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

use crate::config::{Config, Secret};
use crate::multipool::{MAX_QUESTION, Peers, RemoteVoter};

/// Where an instance and the witness answer.
pub const PATH: &str = "/internal/vote";

/// The random number of a question, and its signature or the answer's.
const NONCE: &str = "x-vote-nonce";
const SIGNATURE: &str = "x-vote-signature";

/// A voter that is not connected by then is counted as missing.
const CONNECT_DEADLINE: Duration = Duration::from_millis(400);
/// Whoever asks for a vote waits for less than this; it only ends what is forgotten.
const ASK_DEADLINE: Duration = Duration::from_secs(2);

/// Signs questions and answers.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// The same on every instance and on the witness.
    pub fn of(secret: &Secret) -> Key {
        Key(signature(secret.expose().as_bytes(), &[b"kambana votes 1"]))
    }

    fn question(&self, nonce: &str, body: &[u8]) -> String {
        hex::encode(signature(&self.0, &[b"question", nonce.as_bytes(), body]))
    }

    fn answer(&self, question: &str, body: &[u8]) -> String {
        hex::encode(signature(&self.0, &[b"answer", question.as_bytes(), body]))
    }
}

/// HMAC-SHA256; the length of each part is signed with it.
fn signature(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = match Hmac::<Sha256>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    };
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Compares without telling by its duration where two texts begin to differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |all, (x, y)| all | (x ^ y)) == 0
}

type Answering = dyn Fn(Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync;

/// What answers questions here: an instance, or the witness.
#[derive(Clone)]
pub struct Door {
    key: Key,
    answering: Arc<Answering>,
}

impl Door {
    /// `answering` gets the bytes of questions whose signature is right.
    pub fn new(
        key: Key,
        answering: impl Fn(Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync + 'static,
    ) -> Door {
        Door {
            key,
            answering: Arc::new(answering),
        }
    }

    /// Its one path.
    pub fn configure(&self) -> impl FnOnce(&mut ServiceConfig) + use<> {
        let door = self.clone();
        move |config| {
            config.service(
                web::resource(PATH)
                    .app_data(Data::new(door))
                    .app_data(PayloadConfig::new(MAX_QUESTION))
                    .route(web::post().to(answer)),
            );
        }
    }
}

/// `POST /internal/vote`
async fn answer(request: HttpRequest, door: Data<Door>, body: Bytes) -> HttpResponse {
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    if request.headers().contains_key("x-forwarded-for") || request.headers().contains_key("forwarded") {
        return HttpResponse::NotFound().finish();
    }
    let signature = door.key.question(header(NONCE), &body);
    if !same(&signature, header(SIGNATURE)) {
        return HttpResponse::Unauthorized().body("the signature is not that of a voter of this pool\n");
    }
    match (door.answering)(body.to_vec()).await {
        Ok(body) => HttpResponse::Ok()
            .insert_header((SIGNATURE, door.key.answer(&signature, &body)))
            .content_type("application/json")
            .body(body),
        Err(why) => HttpResponse::BadRequest().body(format!("{why}\n")),
    }
}

/// A voter behind a base URL.
struct HttpVoter {
    base: String,
    http: reqwest::Client,
    key: Key,
}

impl RemoteVoter for HttpVoter {
    fn address(&self) -> &str {
        &self.base
    }

    fn ask(&self, question: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(self.exchange(question))
    }
}

impl HttpVoter {
    async fn exchange(&self, question: Vec<u8>) -> Result<Vec<u8>, String> {
        let nonce = Uuid::new_v4().simple().to_string();
        let signature = self.key.question(&nonce, &question);
        let request = self
            .http
            .post(format!("{}{PATH}", self.base.trim_end_matches('/')))
            .header(NONCE, nonce)
            .header(SIGNATURE, &signature)
            .body(question);
        let mut answer = request.send().await.map_err(|e| reason(&e))?;
        let status = answer.status();
        let signed = answer.headers().get(SIGNATURE).cloned();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| reason(&e))? {
            if body.len() + chunk.len() > MAX_QUESTION {
                return Err("its answer is too long for one of a voter".into());
            }
            body.extend_from_slice(&chunk);
        }
        if status == reqwest::StatusCode::UNAUTHORIZED {
            return Err("it does not know our signature: SESSION_SECRET must be the same everywhere".into());
        }
        if status != reqwest::StatusCode::OK {
            return Err(format!("it answers {}", status.as_u16()));
        }
        let signed = signed
            .as_ref()
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        match same(&self.key.answer(&signature, &body), signed) {
            true => Ok(body),
            false => Err("its answer is not signed with our SESSION_SECRET".into()),
        }
    }
}

/// What went wrong, without the URL, which is said already.
fn reason(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() {
        "no answer in time".to_owned()
    } else if error.is_connect() {
        "no connection".to_owned()
    } else {
        "the connection was lost".to_owned()
    };
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<std::io::Error>() {
            text = format!("{text}: {inner}");
            break;
        }
        source = inner.source();
    }
    text
}

/// The configured voters beside this instance.
///
/// # Errors
/// The client cannot be made.
pub fn peers(config: &Config) -> Result<Peers, String> {
    let http = reqwest::Client::builder()
        // An address inside: no proxy of the environment has a say, and nobody sends us elsewhere.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(ASK_DEADLINE)
        .build()
        .map_err(|e| format!("the client for votes: {e}"))?;
    let key = Key::of(&config.session_secret);
    let voter = |base: &String| -> Arc<dyn RemoteVoter> {
        Arc::new(HttpVoter {
            base: base.clone(),
            http: http.clone(),
            key: key.clone(),
        })
    };
    Ok(Peers {
        instances: config.peers.iter().map(voter).collect(),
        witness: config.witness.as_ref().map(voter),
    })
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;
    use actix_web::{App, test};

    use super::*;

    fn door(secret: &str) -> Door {
        Door::new(Key::of(&Secret::new(secret)), |question| {
            Box::pin(async move {
                match question.as_slice() {
                    b"bad" => Err("no question".to_owned()),
                    other => Ok(other.to_ascii_uppercase()),
                }
            })
        })
    }

    /// Status and signed body of one question to a door with the secret "right".
    async fn post(secret: &str, body: &[u8], more: Option<(&str, &str)>) -> (StatusCode, bool) {
        let app = test::init_service(App::new().configure(door("right").configure())).await;
        let key = Key::of(&Secret::new(secret));
        let signature = key.question("7", body);
        let mut request = test::TestRequest::post()
            .uri(PATH)
            .insert_header((NONCE, "7"))
            .insert_header((SIGNATURE, signature.clone()))
            .set_payload(body.to_vec());
        if let Some(header) = more {
            request = request.insert_header(header);
        }
        let answer = test::call_service(&app, request.to_request()).await;
        let status = answer.status();
        let signed = answer.headers().get(SIGNATURE).cloned();
        let body = test::read_body(answer).await;
        (
            status,
            signed.is_some_and(|s| s == key.answer(&signature, &body).as_str()),
        )
    }

    #[actix_web::test]
    async fn only_questions_with_the_right_signature_are_answered() {
        assert_eq!(post("right", b"who", None).await, (StatusCode::OK, true));
        assert_eq!(
            post("wrong", b"who", None).await,
            (StatusCode::UNAUTHORIZED, false)
        );
        assert_eq!(
            post("right", b"bad", None).await,
            (StatusCode::BAD_REQUEST, false)
        );
        let long = vec![b'x'; MAX_QUESTION + 1];
        assert_eq!(post("right", &long, None).await.0, StatusCode::PAYLOAD_TOO_LARGE);
        for header in ["X-Forwarded-For", "Forwarded"] {
            let through_a_proxy = post("right", b"who", Some((header, "192.0.2.1"))).await;
            assert_eq!(through_a_proxy.0, StatusCode::NOT_FOUND);
        }
        let app = test::init_service(App::new().configure(door("right").configure())).await;
        let bare = test::TestRequest::post()
            .uri(PATH)
            .set_payload("who")
            .to_request();
        assert_eq!(
            test::call_service(&app, bare).await.status(),
            StatusCode::UNAUTHORIZED
        );
    }

    #[::core::prelude::v1::test]
    fn a_signature_is_for_one_thing_only() {
        let key = Key::of(&Secret::new("s"));
        let signed = key.question("12", b"3");
        assert_ne!(signed, key.question("1", b"23"));
        assert_ne!(signed, key.answer("12", b"3"));
        assert!(same(&signed, &key.question("12", b"3")) && !same(&signed, "") && !same("a", "b"));
    }
}
