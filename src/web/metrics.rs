//! `/metrics`: what this instance counts, in Prometheus' text format.

use std::sync::OnceLock;
use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use actix_web::{HttpResponse, web};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::AppState;
use crate::multipool::SideState;

/// From a cached page to the deadline of an operation, in seconds.
const LATENCY_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Installs the recorder of this process, once.
pub(super) fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let make = || {
        let builder = PrometheusBuilder::new();
        // Fails for an empty list only.
        let builder = builder
            .set_buckets(LATENCY_BUCKETS)
            .unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed; /metrics shows nothing");
        }
        metrics::describe_counter!(
            "kambana_http_requests_total",
            "Requests answered, by route and status."
        );
        metrics::describe_histogram!("kambana_http_request_seconds", "Time to answer, by route.");
        metrics::describe_counter!(
            "kambana_http_mutations_total",
            "Requests that change something, by what became of the change."
        );
        metrics::describe_counter!("kambana_writes_total", "Operations of the pool, by outcome.");
        metrics::describe_gauge!("kambana_epoch", "Number of the current membership.");
        metrics::describe_gauge!("kambana_side_active", "1 while the side takes every write.");
        metrics::describe_gauge!(
            "kambana_side_open_rows",
            "Journal rows not known to be on the side."
        );
        metrics::describe_gauge!("kambana_conflicts_open", "Conflicts that wait for a person.");
        metrics::describe_gauge!("kambana_changes_held", "Changes that a side refuses.");
        metrics::describe_gauge!(
            "kambana_compare_differing_rows",
            "Rows that differ without explanation, at the last background comparison."
        );
        metrics::describe_gauge!(
            "kambana_compare_explained_rows",
            "Rows still on their way at the last background comparison."
        );
        metrics::describe_gauge!(
            "kambana_compare_timestamp_seconds",
            "When the last background comparison was stored."
        );
        metrics::describe_gauge!("kambana_compare_pause_seconds", "How long it made writers wait.");
        metrics::describe_gauge!("kambana_writable", "1 while writes are accepted.");
        handle
    };
    HANDLE.get_or_init(make).clone()
}

/// Counts one answered request.
pub(super) fn count(method: &Method, route: &str, status: StatusCode, took: Duration) {
    let (method, route) = (method_label(method), route.to_owned());
    metrics::counter!("kambana_http_requests_total",
        "method" => method, "route" => route.clone(), "status" => status.as_u16().to_string())
    .increment(1);
    metrics::histogram!("kambana_http_request_seconds", "method" => method, "route" => route)
        .record(took.as_secs_f64());
    if !method_is_safe(method) {
        metrics::counter!("kambana_http_mutations_total", "outcome" => outcome(status)).increment(1);
    }
}

/// A client may send any word as a method; a label takes only the known ones.
fn method_label(method: &Method) -> &'static str {
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]
        .into_iter()
        .find(|known| *known == method.as_str())
        .unwrap_or("other")
}

fn method_is_safe(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS")
}

/// The words of DESIGN section 6 for a status.
fn outcome(status: StatusCode) -> &'static str {
    match status.as_u16() {
        202 => "unknown",
        200..=399 => "applied",
        404 => "not_found",
        409 => "edit_conflict",
        400..=499 => "invalid",
        503 => "not_applied",
        _ => "error",
    }
}

/// `GET /metrics`.
pub(super) async fn show(state: web::Data<AppState>) -> HttpResponse {
    let status = state.pool.status();
    metrics::gauge!("kambana_epoch").set(status.epoch as f64);
    metrics::gauge!("kambana_writable").set(f64::from(u8::from(status.writable)));
    metrics::gauge!("kambana_conflicts_open").set(status.open_conflicts as f64);
    metrics::gauge!("kambana_changes_held").set(status.held_changes as f64);
    if let Some(certificate) = &status.certificate {
        metrics::gauge!("kambana_compare_differing_rows").set(certificate.differing as f64);
        metrics::gauge!("kambana_compare_explained_rows").set(certificate.explained as f64);
        metrics::gauge!("kambana_compare_pause_seconds").set(certificate.pause_ms / 1000.0);
        let at = certificate.at.duration_since(std::time::UNIX_EPOCH);
        metrics::gauge!("kambana_compare_timestamp_seconds").set(at.map_or(0.0, |at| at.as_secs_f64()));
    }
    for (side, of_side) in status.sides.iter() {
        let name = side.to_string();
        let active = u8::from(of_side.state == SideState::Active);
        metrics::gauge!("kambana_side_active", "side" => name.clone()).set(f64::from(active));
        if let Some(rows) = of_side.open_rows {
            metrics::gauge!("kambana_side_open_rows", "side" => name).set(rows as f64);
        }
    }
    // Moves the samples of the histograms into their buckets; without it they are kept one by one.
    state.metrics.run_upkeep();
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(state.metrics.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded() {
        assert_eq!(method_label(&Method::from_bytes(b"BREW").unwrap()), "other");
        assert_eq!(method_label(&Method::DELETE), "DELETE");
        assert_eq!(outcome(StatusCode::SEE_OTHER), "applied");
        assert_eq!(outcome(StatusCode::SERVICE_UNAVAILABLE), "not_applied");
    }
}
