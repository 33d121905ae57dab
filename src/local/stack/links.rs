//! The wires between instances and sides, where they were asked for.

use super::Stack;
use crate::config::SideConfig;
use crate::local::{Link, LocalError, Port};
use crate::multipool::{PerSide, SideId};

/// One set of links an instance; they are aimed again when a database has moved.
pub(super) async fn open(instances: usize, sides: &[Port]) -> Result<Vec<PerSide<Link>>, LocalError> {
    let mut all = Vec::with_capacity(instances);
    for _ in 0..instances {
        let mut links = Vec::with_capacity(sides.len());
        for side in sides {
            links.push(Link::open(side.number).await?);
        }
        let mut links = links.into_iter();
        all.push(PerSide::new(sides.len(), |_| {
            links.next().unwrap_or_else(|| unreachable!("one link a side"))
        }));
    }
    Ok(all)
}

impl Stack {
    /// The link between an instance, counted from 0, and a side; `None` without
    /// [`StackOptions::with_links`](super::StackOptions::with_links).
    pub fn link(&self, instance: usize, side: SideId) -> Option<&Link> {
        self.links.get(instance)?.get(side)
    }

    /// These sides as an instance reaches them.
    pub(super) fn over_links(&self, instance: usize, mut sides: Vec<SideConfig>) -> Vec<SideConfig> {
        if let Some(links) = self.links.get(instance) {
            for ((_, link), side) in links.iter().zip(&mut sides) {
                side.port = link.port();
            }
        }
        sides
    }

    pub(super) fn aim_links(&self, side: SideId, port: u16) {
        for links in &self.links {
            if let Some(link) = links.get(side) {
                link.aim(port);
            }
        }
    }
}
