//! The votes of `/cluster`, in words.

use super::when;
use crate::multipool::{Margin, VoterKind, Votes};
use crate::web::lang::{Lang, fill};

/// Everybody who votes, and what one more failure would stop.
pub(super) struct VotesView {
    pub lead: String,
    pub voters: Vec<VoterView>,
    pub good: bool,
    pub margin: Vec<String>,
    /// In English, as in the log.
    pub warnings: Vec<String>,
}

/// One voter.
pub(super) struct VoterView {
    pub name: String,
    pub weight: u32,
    pub votes: bool,
    /// In English, as in the log.
    pub why: String,
    pub since: String,
}

pub(super) fn votes_view(lang: Lang, votes: &Votes) -> VotesView {
    let t = lang.cluster();
    let voters = votes.voters.iter().map(|voter| VoterView {
        name: voter_name(lang, voter.kind, &voter.name),
        weight: voter.weight,
        votes: voter.votes,
        why: voter.why.clone().unwrap_or_default(),
        since: when::moment(lang, voter.since),
    });
    VotesView {
        lead: match votes.voters.len() {
            0 | 1 => t.votes_alone.to_owned(),
            _ => fill(t.votes_lead, &[&votes.present, &votes.needed, &votes.total]),
        },
        voters: voters.collect(),
        good: votes.margin.is_safe(),
        margin: margin(lang, &votes.margin),
        warnings: votes.warnings.clone(),
    }
}

/// What a voter is called.
pub(super) fn voter_name(lang: Lang, kind: VoterKind, name: &str) -> String {
    let t = lang.cluster();
    let text = match kind {
        VoterKind::Instance => t.voter_instance,
        VoterKind::Witness => t.voter_witness,
        VoterKind::Side => t.side,
    };
    fill(text, &[&name])
}

fn margin(lang: Lang, margin: &Margin) -> Vec<String> {
    let t = lang.cluster();
    if margin.is_safe() {
        return vec![t.margin_safe.to_owned()];
    }
    let last = margin.last_copy.map(|side| fill(t.margin_last_copy, &[&side]));
    let few = margin
        .too_few_votes
        .iter()
        .map(|side| fill(t.margin_too_few, &[side]));
    let instance = margin.last_instance.then(|| t.margin_last_instance.to_owned());
    last.into_iter().chain(few).chain(instance).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multipool::SideSet;

    #[test]
    fn the_margin_is_said_in_both_languages() {
        let a = SideSet::first(1).leader();
        let found = Margin {
            last_copy: None,
            too_few_votes: a.into_iter().collect(),
            last_instance: true,
        };
        assert!(margin(Lang::En, &found)[0].contains("the loss of database a would leave too few votes"));
        assert!(margin(Lang::Fr, &found)[1].starts_with("Aucune autre instance"));
        assert_eq!(margin(Lang::Fr, &Margin::default()).len(), 1);
    }
}
