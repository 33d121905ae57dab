//! Two databases kept identical by one instance or by two.

use anyhow::Result;
use kambana::local::Stack;
use kambana::multipool::install;

use super::{Kind, Links, Site, System, databases, fill::fill};
use crate::worker::{Address, Door, PoolDoor};

/// The tables that the pool watches, as the web application does.
pub const WATCHED: [&str; 3] = ["items", "servers", "php_session"];

/// Builds it.
pub async fn build(site: &Site, instances: usize) -> Result<System> {
    let stack = Stack::start(site.options()).await?;
    let databases = databases(site, &stack).await?;
    for database in &databases {
        fill(database.client()).await?;
    }
    let dir = site.dir("pool")?;
    // Two systems may listen in one directory of sockets.
    let names: Vec<String> = (1..=instances)
        .map(|number| format!("web{number}of{instances}"))
        .collect();
    let mut links = Links::default();
    let mut doors = Vec::new();
    for name in &names {
        let mut sides: Vec<Address> = stack.side_configs().iter().map(Address::from).collect();
        for side in &mut sides {
            side.port = links.to(site, side.port).await?;
        }
        doors.push(PoolDoor {
            sides,
            instance: name.clone(),
            dir: dir.clone(),
            sockets: site.sockets.clone(),
            peers: names.iter().filter(|other| *other != name).cloned().collect(),
        });
    }
    install(&doors[0].config(), &WATCHED).await?;
    let kind = if instances == 1 { Kind::One } else { Kind::Two };
    let doors = doors.into_iter().map(Door::Pool).collect();
    let mut system = System::new(kind, stack, databases, doors);
    system.links = links;
    Ok(system)
}
