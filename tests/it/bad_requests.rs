//! Requests that nobody should send, and what each must be answered.

use serde_json::json;

const FORM: &str = "application/x-www-form-urlencoded";
pub const OP: &str = "0198f3a0-0000-7000-8000-000000000001";

/// One bad request.
pub struct Bad {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The status it must get.
    pub status: u16,
    /// What the answer must say.
    pub says: &'static str,
}

fn get(path: impl Into<String>, status: u16, says: &'static str) -> Bad {
    Bad {
        method: "GET",
        path: path.into(),
        headers: vec![],
        body: vec![],
        status,
        says,
    }
}

fn post(path: &str, kind: &str, body: impl Into<Vec<u8>>, status: u16, says: &'static str) -> Bad {
    Bad {
        method: "POST",
        headers: vec![("Content-Type", kind.to_owned())],
        body: body.into(),
        ..get(path, status, says)
    }
}

/// A form with a good name of its operation.
fn form(path: &str, fields: &str, status: u16, says: &'static str) -> Bad {
    post(path, FORM, format!("op_id={OP}&{fields}"), status, says)
}

fn json_to(
    method: &'static str,
    path: &str,
    body: impl Into<Vec<u8>>,
    status: u16,
    says: &'static str,
) -> Bad {
    let bad = post(path, "application/json", body, status, says);
    Bad { method, ..bad }
}

impl Bad {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Bad {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
        self
    }
}

pub const MISUNDERSTOOD: &str = "This request cannot be understood";

/// Bad values of fields, in forms and in JSON.
pub fn fields() -> Vec<Bad> {
    let long = "é".repeat(10_000);
    let long_form = "%C3%A9".repeat(10_000);
    let mut bad = vec![
        form("/items", "name=", 422, "Please fill this in."),
        form("/items", "name=+%09+", 422, "Please fill this in."),
        form("/items", "", 422, "Please fill this in."),
        form(
            "/items",
            &format!("name={long_form}"),
            422,
            "This is too long: at most 200 characters.",
        ),
        form("/items", "name=a%00b", 422, "a character that cannot be stored"),
        form(
            "/items",
            "name=a&content=x%00",
            422,
            "a character that cannot be stored",
        ),
        form("/items", "name=%ff%fe", 400, MISUNDERSTOOD),
        form("/items", "name=%zz", 400, MISUNDERSTOOD),
        form("/items", "name=a&name=b", 400, MISUNDERSTOOD),
        form("/servers", "name=a&host=h&port=1&port=2", 400, MISUNDERSTOOD),
        form(
            "/servers",
            "name=a&host=a%20b&port=1",
            422,
            "This is not a host name or an address.",
        ),
        form(
            "/servers",
            "name=a&host=h&port=1&active=perhaps",
            422,
            "This must be yes or no.",
        ),
        form("/items/1", "name=a&seen=%7Bbroken", 400, MISUNDERSTOOD),
        form("/items/1", "name=a&seen=%7B%22name%22:5%7D", 400, MISUNDERSTOOD),
        form("/servers/1/active", "active=perhaps", 400, MISUNDERSTOOD),
        form("/session/set", "name=&value=x", 422, "Please fill this in."),
        form(
            "/session/set",
            "name=a%7Cb&value=x",
            422,
            "A name begins with a letter",
        ),
        form(
            "/session/set",
            "name=_flash&value=x",
            422,
            "A name begins with a letter",
        ),
        form(
            "/session/set",
            "name=7&value=x",
            422,
            "A name begins with a letter",
        ),
        form(
            "/session/set",
            "name=a&value=x%00",
            422,
            "a character that cannot be stored",
        ),
        form("/session/set", "name=a&value=x&value=y", 400, MISUNDERSTOOD),
    ];
    for (port, says) in [
        ("0", "A port is a number from 1 to 65535."),
        ("65536", "A port is a number from 1 to 65535."),
        ("-1", "A port is a number from 1 to 65535."),
        ("99999999999999999999", "A port is a number from 1 to 65535."),
        ("abc", "This is not a whole number."),
        ("8O", "This is not a whole number."),
        ("", "Please fill this in."),
    ] {
        bad.push(form("/servers", &format!("name=a&host=h&port={port}"), 422, says));
    }
    let item = |body: String, status, says| json_to("POST", "/api/items", body, status, says);
    let server = |body: &str, says| json_to("POST", "/api/servers", body, 422, says);
    bad.extend([
        item(json!({"name": ""}).to_string(), 422, "name is required"),
        item(
            json!({"name": long}).to_string(),
            422,
            "name is longer than 200 characters",
        ),
        item(
            json!({"name": "a", "content": "é".repeat(100_001)}).to_string(),
            422,
            "content is longer than 100000",
        ),
        item(r#"{"name":"a\u0000b"}"#.into(), 422, "contains a NUL character"),
        item(r#"{"name":"\ud800"}"#.into(), 400, "is not JSON"),
        item(r#"{"name":"a","name":"b"}"#.into(), 422, "duplicate field"),
        item(r#"{"name":5}"#.into(), 422, "has not the expected shape"),
        item(r#"{"nom":"a"}"#.into(), 422, "unknown field"),
        item(r#"{"name":"a","id":7}"#.into(), 422, "unknown field"),
        item(r#"["a"]"#.into(), 422, "must be an object"),
        item("null".into(), 422, "has not the expected shape"),
        item(r#"{"name":"a""#.into(), 400, "is not JSON"),
        item(r#"{"name":"a"} {}"#.into(), 400, "is not JSON"),
        item(String::new(), 400, "is not JSON"),
        item("[".repeat(5000), 422, "must be an object"),
        item(
            format!("{{\"name\":{}", "[".repeat(5000)),
            422,
            "has not the expected shape",
        ),
        json_to("POST", "/api/items", b"{\"name\":\"\xff\"}", 400, "is not JSON"),
        server(
            r#"{"name":"a","host":"h","port":0}"#,
            "port must be between 1 and 65535",
        ),
        server(
            r#"{"name":"a","host":"h","port":65536}"#,
            "port must be between 1 and 65535",
        ),
        server(
            r#"{"name":"a","host":"h","port":-1}"#,
            "port must be between 1 and 65535",
        ),
        server(
            r#"{"name":"a","host":"h","port":"abc"}"#,
            "has not the expected shape",
        ),
        server(r#"{"name":"a","host":"h"}"#, "port is required"),
        server(
            r#"{"name":"","host":"","port":0}"#,
            "name is required; host is required; port must",
        ),
    ]);
    bad
}

/// Addresses that lead nowhere, and lists nobody has.
pub fn addresses() -> Vec<Bad> {
    let mut bad = vec![];
    for id in ["0", "-1", "999999"] {
        for page in ["", "/edit", "/delete"] {
            bad.push(get(format!("/items/{id}{page}"), 404, "does not exist"));
        }
        bad.push(form(&format!("/items/{id}"), "name=a", 404, "does not exist"));
        bad.push(form(
            &format!("/servers/{id}/active"),
            "active=true",
            404,
            "does not exist",
        ));
        bad.push(form(&format!("/servers/{id}/delete"), "", 404, "does not exist"));
    }
    for id in [
        "abc",
        "99999999999",
        "2147483648",
        "1.0",
        "1%00",
        "%FF",
        "0x1",
        "+1",
    ] {
        bad.push(get(format!("/items/{id}"), 404, "exist"));
        bad.push(form(
            &format!("/servers/{id}"),
            "name=a&host=h&port=1",
            404,
            "exist",
        ));
        bad.push(get(format!("/api/items/{id}"), 404, "exist"));
        bad.push(json_to(
            "PUT",
            &format!("/api/items/{id}"),
            r#"{"name":"a"}"#,
            404,
            "exist",
        ));
        bad.push(Bad {
            method: "DELETE",
            ..get(format!("/api/servers/{id}"), 404, "exist")
        });
    }
    let cursor = |json: &str| -> String { json.bytes().map(|byte| format!("{byte:02x}")).collect() };
    let not_an_id = cursor(r#"{"s":"id","d":false,"b":false,"v":"abc","i":1}"#);
    let not_a_time = cursor(r#"{"s":"updated_at","d":false,"b":false,"v":"yesterday-ish","i":1}"#);
    let by_name = cursor(r#"{"s":"name","d":false,"b":false,"v":"a","i":1}"#);
    let huge = cursor(r#"{"s":"id","d":false,"b":false,"v":"1","i":99999999999}"#);
    let with_nul = cursor(r#"{"s":"name","d":false,"b":false,"v":"a\u0000","i":1}"#);
    for (query, api, says) in [
        ("cursor=zz".to_owned(), 422, "cursor is not a page mark"),
        ("cursor=7".into(), 422, "cursor is not a page mark"),
        ("cursor=%C3%A9%C3%A9".into(), 422, "cursor is not a page mark"),
        (format!("cursor={by_name}"), 422, "cursor is not a page mark"),
        (format!("cursor={huge}"), 422, "cursor is not a page mark"),
        (
            format!("sort=name&cursor={with_nul}"),
            422,
            "cursor is not a page mark",
        ),
        (format!("cursor={not_an_id}"), 400, "A parameter cannot be used"),
        (
            format!("sort=updated_at&cursor={not_a_time}"),
            400,
            "A parameter cannot be used",
        ),
        ("sort=password".into(), 422, "sort is not one of the values"),
        (
            "sort=id;DROP%20TABLE%20items".into(),
            422,
            "sort is not one of the values",
        ),
        ("order=up".into(), 422, "order is not one of the values"),
        ("limit=0".into(), 422, "limit must be between 1 and 100"),
        ("limit=101".into(), 422, "limit must be between 1 and 100"),
        ("limit=abc".into(), 422, "limit is not a whole number"),
        ("search=%00".into(), 422, "search contains a NUL character"),
        (
            format!("search={}", "x".repeat(201)),
            422,
            "search is longer than 200 characters",
        ),
        ("search=a&search=b".into(), 400, "was given more than once"),
        ("search=%ff".into(), 400, "is not valid UTF-8"),
        ("search=%4".into(), 400, "two hexadecimal digits"),
    ] {
        bad.push(get(format!("/api/items?{query}"), api, says));
        bad.push(get(format!("/items?{query}"), 400, MISUNDERSTOOD));
    }
    bad.push(get("/api/items?serach=x", 400, "there is no parameter `serach`"));
    for path in [
        "/items/import/abc?rows=1&chunks=1".to_owned(),
        format!("/items/import/{OP}"),
        format!("/items/import/{OP}?rows=1&chunks=2"),
        format!("/items/import/{OP}?rows=-1&chunks=0"),
        format!("/items/import/{OP}?rows=99999999999&chunks=199999999"),
        format!("/items/import/{OP}?rows=18446744073709551615&chunks=36893488147419104"),
        "/ops/abc".to_owned(),
    ] {
        bad.push(get(path, 400, MISUNDERSTOOD));
    }
    bad.extend([
        get(format!("/ops/{OP}"), 404, "No database knows this operation"),
        get(format!("/api/ops/{OP}"), 404, "No database has seen operation"),
        get(format!("/api/ops/{}", "x".repeat(256)), 400, "1 to 255 printable"),
        get("/api/ops/%00", 400, "1 to 255 printable"),
        get("/nothing", 404, "This page does not exist"),
        get("/static/0/../../Cargo.toml", 404, ""),
        get("/static/0/%2e%2e%2fCargo.toml", 404, ""),
        get("/api", 404, "nothing at this address"),
        get("/api/items/1/more", 404, "nothing at this address"),
    ]);
    bad
}

/// Requests of the wrong kind, from the wrong place, or under a wrong name.
pub fn manners() -> Vec<Bad> {
    let big = |bytes: usize| format!("name={}", "x".repeat(bytes));
    let mut bad = vec![
        post("/items", FORM, "name=a", 400, MISUNDERSTOOD),
        post("/items", FORM, "op_id=&name=a", 400, MISUNDERSTOOD),
        post("/items", FORM, "op_id=abc&name=a", 400, MISUNDERSTOOD),
        post(
            "/items",
            FORM,
            format!("op_id={OP}&op_id={OP}&name=a"),
            400,
            MISUNDERSTOOD,
        ),
        post(
            "/items",
            "application/json",
            r#"{"name":"a"}"#,
            400,
            MISUNDERSTOOD,
        ),
        post("/items", "image/png", [0u8, 159, 146, 150], 400, MISUNDERSTOOD),
        form("/items", &big(5_000_000), 413, "At most 4 MB are accepted."),
        post("/items/import", FORM, "x=y", 400, MISUNDERSTOOD),
        post(
            &format!("/items/import?op_id={OP}"),
            FORM,
            "x=y",
            400,
            MISUNDERSTOOD,
        ),
        post(
            "/items/import?op_id=abc",
            "multipart/form-data; boundary=x",
            "--x--",
            400,
            MISUNDERSTOOD,
        ),
        post(
            &format!("/items/import?op_id={OP}"),
            "multipart/form-data",
            "--x--",
            400,
            MISUNDERSTOOD,
        ),
        post(
            "/api/items",
            "text/plain",
            r#"{"name":"a"}"#,
            415,
            "application/json",
        ),
        post("/api/items", FORM, "name=a", 415, "application/json"),
        post(
            "/api/items",
            "application/json",
            "x",
            415,
            "without a Content-Encoding",
        )
        .with("Content-Encoding", "gzip"),
        json_to(
            "POST",
            "/api/items",
            format!("{{\"name\":\"{}\"}}", big(1_400_000)),
            413,
            "is larger than",
        ),
    ];
    for (header, value) in [
        ("Idempotency-Key", String::new()),
        ("Idempotency-Key", "x".repeat(256)),
        ("X-Op-Id", "ñ".into()),
    ] {
        let says = "takes 1 to 255 printable ASCII characters";
        bad.push(json_to("POST", "/api/items", r#"{"name":"a"}"#, 400, says).with(header, value));
    }
    let two = json_to(
        "POST",
        "/api/items",
        r#"{"name":"a"}"#,
        400,
        "two different names",
    );
    bad.push(two.with("Idempotency-Key", "a").with("X-Op-Id", "b"));
    for (header, value) in [
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ] {
        for request in [
            form("/items", "name=evil", 403, "Nothing was changed"),
            form("/session/destroy", "", 403, "Nothing was changed"),
            json_to(
                "POST",
                "/api/items",
                r#"{"name":"evil"}"#,
                403,
                "Nothing was changed",
            ),
            json_to("DELETE", "/api/items/1", "", 403, "Nothing was changed"),
        ] {
            bad.push(request.with(header, value));
        }
    }
    for (method, path) in [
        ("PATCH", "/api/items"),
        ("PUT", "/api/items"),
        ("DELETE", "/api/items"),
        ("POST", "/api/items/1"),
        ("POST", "/api/status"),
        ("PUT", "/items"),
        ("DELETE", "/items/1"),
        ("POST", "/items/new"),
        ("POST", "/cluster"),
        ("BREW", "/items"),
    ] {
        let says = "does not take this method";
        bad.push(Bad {
            method,
            ..get(path, 405, says)
        });
    }
    for path in [
        "/session/set",
        "/session/remove",
        "/session/destroy",
        "/servers/1/active",
    ] {
        bad.push(get(path, 405, "takes a form only"));
    }
    bad
}
