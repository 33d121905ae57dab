//! What every side has answered to the lanes of this instance: known here a batch earlier than any side stores it, so that
//! lanes of one instance do not take each other's last batch for one that may be missing somewhere.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::multipool::inner::lock;
use crate::multipool::{PerSide, SideId};

/// By name of the lane, per side the last batch whose COMMIT it answered.
#[derive(Default)]
pub(in crate::multipool) struct Answered(Mutex<BTreeMap<i64, PerSide<i64>>>);

impl Answered {
    /// Every side has answered this much to a lane.
    pub(super) fn note(&self, lane: i64, confirmed: &PerSide<i64>) {
        lock(&self.0).insert(lane, confirmed.clone());
    }

    /// A lane has another name from now on.
    pub(super) fn forget(&self, lane: i64) {
        lock(&self.0).remove(&lane);
    }

    /// The lanes, and the last batch that `side` has answered to each.
    pub(super) fn by(&self, side: SideId) -> (Vec<i64>, Vec<i64>) {
        lock(&self.0)
            .iter()
            .map(|(lane, confirmed)| (*lane, confirmed[side]))
            .unzip()
    }
}
