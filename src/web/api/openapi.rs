//! `/api/openapi.json`: kept by hand; a test compares it with the routes.

use actix_web::HttpResponse;

const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /api/openapi.json`.
pub(in crate::web) async fn show() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// `(path, method)` of every line `.service(resource("/api/…")…` and the lines of its methods.
    fn routed() -> BTreeSet<(String, String)> {
        let mut routes = BTreeSet::new();
        for service in include_str!("../routes.rs").split("resource(\"").skip(1) {
            let Some((path, rest)) = service.split_once('"') else {
                continue;
            };
            let statement = rest.split(".service(").next().unwrap_or(rest);
            for method in ["get", "post", "put", "delete", "patch"] {
                if path.starts_with("/api/") && statement.contains(&format!(".route({method}()")) {
                    routes.insert((path.to_owned(), method.to_owned()));
                }
            }
        }
        routes
    }

    #[test]
    fn every_route_is_described() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let mut described = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods
                .as_object()
                .unwrap()
                .keys()
                .filter(|key| *key != "parameters")
            {
                described.insert((path.clone(), method.clone()));
            }
        }
        assert_eq!(described, routed());
        assert!(described.len() >= 13, "{described:?}");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        fn walk(value: &Value, root: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(target)) = map.get("$ref") {
                        let pointer = target.strip_prefix('#').unwrap();
                        assert!(root.pointer(pointer).is_some(), "{target}");
                    }
                    map.values().for_each(|value| walk(value, root));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, root)),
                _ => {}
            }
        }
        walk(&document, &document);
    }
}
