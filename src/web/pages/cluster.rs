//! `/cluster`, `/journal` and `/compare`: the databases as this instance sees them.

use actix_web::http::StatusCode;
use askama::Template;

use super::frame::{Frame, Place, side_names, state_class, state_word};
use super::happened::happened;
use super::visit::{Answer, Visit};
use super::votes::{VotesView, votes_view};
use super::{when, words};
use crate::multipool::{Certificate, SideId, SideState, SideStatus, Status};
use crate::web::lang::{ClusterTexts, Lang, fill, number};

/// One side, in words.
pub(super) struct SideView {
    name: String,
    title: String,
    class: &'static str,
    tag: &'static str,
    state: &'static str,
    leader: bool,
    fault: Option<String>,
    progress: Option<String>,
    /// Keys brought over and keys there are, where both are known.
    bar: Option<(u64, u64)>,
    address: String,
    version: String,
    heartbeat: String,
    seen: String,
    open_rows: String,
}

/// One event, in words.
pub(super) struct EventView {
    at: String,
    epoch: i64,
    what: String,
}

#[derive(Template)]
#[template(path = "cluster.html")]
pub(super) struct ClusterPage {
    f: Frame,
    t: &'static ClusterTexts,
    lead: String,
    whole: bool,
    refreshing: bool,
    sides: Vec<SideView>,
    refusal: Option<String>,
    members: String,
    epoch: i64,
    waiting: usize,
    instance: String,
    votes: VotesView,
    events: Vec<EventView>,
    conflicts: Option<String>,
}

#[derive(Template)]
#[template(path = "journal.html")]
struct JournalPage {
    f: Frame,
    t: &'static ClusterTexts,
    settled: bool,
    sides: Vec<SideView>,
}

#[derive(Template)]
#[template(path = "compare.html")]
pub(super) struct ComparePage {
    f: Frame,
    t: &'static ClusterTexts,
    certificate: Option<CertificateView>,
}

/// The latest background comparison, in words.
struct CertificateView {
    class: &'static str,
    verdict: String,
    at: String,
    rows: String,
    digest: String,
    epoch: i64,
    pause: String,
    instance: String,
    found: Vec<String>,
}

fn certificate_view(lang: Lang, of: &Certificate) -> CertificateView {
    let t = lang.cluster();
    let (class, verdict) = match (of.differing, of.explained) {
        (0, 0) => ("good", t.certificate_identical.to_owned()),
        (0, waiting) => ("", fill(t.certificate_waiting, &[&number(lang, waiting)])),
        (differing, _) => ("bad", fill(t.certificate_differing, &[&number(lang, differing)])),
    };
    CertificateView {
        class,
        verdict,
        at: when::moment(lang, of.at),
        rows: fill(t.certificate_of_tables, &[&number(lang, of.rows), &of.tables]),
        digest: of.digest.clone(),
        epoch: of.epoch,
        pause: fill(t.milliseconds, &[&format_args!("{:.1}", of.pause_ms)]),
        instance: of.instance.clone(),
        found: of
            .found
            .iter()
            .map(|found| format!("{} {}: {}", found.table, found.key, found.columns.join(", ")))
            .collect(),
    }
}

/// The page of `/compare` for one status.
pub(super) fn compare_page(f: Frame, status: &Status) -> ComparePage {
    ComparePage {
        t: f.lang.cluster(),
        certificate: status.certificate.as_ref().map(|of| certificate_view(f.lang, of)),
        f,
    }
}

fn side_view(lang: Lang, side: SideId, of: &SideStatus) -> SideView {
    let t = lang.cluster();
    let open = of.open_rows.and_then(|rows| u64::try_from(rows).ok());
    let catching_up = of.state == SideState::CatchingUp;
    SideView {
        name: side.to_string(),
        title: fill(t.side, &[&side]),
        class: state_class(of.state),
        tag: match of.state {
            SideState::Active => "good",
            SideState::CatchingUp | SideState::Rebuilding => "warn",
            SideState::Out => "bad",
        },
        state: state_word(t, of.state),
        leader: of.leader,
        fault: of.fault.as_ref().map(|fault| words::fault(lang, fault)),
        progress: match &of.rebuild {
            Some(rebuild) if rebuild.table.is_empty() => Some(t.rebuild_begins.to_owned()),
            Some(rebuild) => Some(fill(
                t.rebuilt,
                &[
                    &rebuild.table,
                    &number(lang, rebuild.rows),
                    &number(lang, rebuild.about),
                ],
            )),
            None => catching_up.then(|| fill(t.caught_up, &[&of.caught_up_keys])),
        },
        bar: match &of.rebuild {
            Some(rebuild) => Some((rebuild.rows.unsigned_abs(), rebuild.about.max(1).unsigned_abs())),
            None => open.map(|open| (of.caught_up_keys, of.caught_up_keys + open)),
        },
        address: of.address.clone(),
        version: match &of.server_version {
            // What follows the number is the packager's.
            Some(version) => version.split(' ').next().unwrap_or(version).to_owned(),
            None => t.unknown.to_owned(),
        },
        heartbeat: match of.heartbeat_ms {
            Some(ms) => fill(t.milliseconds, &[&format_args!("{ms:.1}")]),
            None => t.unknown.to_owned(),
        },
        seen: match of.seen_at {
            Some(at) => when::moment(lang, at),
            None => t.never.to_owned(),
        },
        open_rows: match of.open_rows {
            Some(rows) => number(lang, rows),
            None => t.unknown.to_owned(),
        },
    }
}

fn side_views(lang: Lang, status: &Status) -> Vec<SideView> {
    status
        .sides
        .iter()
        .map(|(side, of)| side_view(lang, side, of))
        .collect()
}

/// The page of `/cluster` for one status.
pub(super) fn cluster_page(f: Frame, status: &Status, refreshing: bool) -> ClusterPage {
    let lang = f.lang;
    let t = lang.cluster();
    let refusal = status.refusal.as_ref().map(|why| words::not_applied(lang, why));
    ClusterPage {
        t,
        lead: fill(t.lead, &[&status.instance]),
        whole: status.is_whole(),
        refreshing,
        sides: side_views(lang, status),
        refusal: refusal.map(|why| fill(t.refused, &[&why])),
        members: if status.members.is_empty() {
            t.none.to_owned()
        } else {
            side_names(status.members.iter())
        },
        epoch: status.epoch,
        waiting: status.waiting_writes,
        conflicts: (status.open_conflicts + status.held_changes > 0).then(|| {
            let counts = [status.open_conflicts, status.held_changes].map(|n| number(lang, n));
            fill(t.conflicts_count, &[&counts[0], &counts[1]])
        }),
        instance: status.instance.clone(),
        votes: votes_view(lang, &status.votes),
        events: status
            .events
            .iter()
            .rev()
            .map(|event| EventView {
                at: when::moment(lang, event.at),
                epoch: event.epoch,
                what: happened(lang, &event.what),
            })
            .collect(),
        f,
    }
}

/// `GET /cluster?refresh=2`
pub async fn show(visit: Visit) -> Answer {
    let params = visit.query_params()?;
    let seconds = params.get("refresh").and_then(|s| s.parse::<u32>().ok());
    let mut f = visit.frame(Place::Cluster);
    if let Some(seconds) = seconds {
        f = f.refresh_after(seconds.clamp(1, 60), None);
    }
    let page = cluster_page(f, &visit.pool().status(), seconds.is_some());
    Ok(visit.page(StatusCode::OK, &page))
}

/// `GET /journal`
pub async fn journal(visit: Visit) -> Answer {
    let status = visit.pool().status();
    let page = JournalPage {
        f: visit.frame(Place::Cluster),
        t: visit.lang.cluster(),
        settled: status.sides.iter().all(|(_, of)| of.open_rows == Some(0)),
        sides: side_views(visit.lang, &status),
    };
    Ok(visit.page(StatusCode::OK, &page))
}

/// `GET /compare`
pub async fn compare(visit: Visit) -> Answer {
    let page = compare_page(visit.frame(Place::Cluster), &visit.pool().status());
    Ok(visit.page(StatusCode::OK, &page))
}
