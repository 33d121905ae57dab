//! Private PostgreSQL clusters, web instances and HAProxy as children of this process: started in order, each ready
//! before the next, and broken on purpose. Used by `kambana up`, `kambana local …` and by every test.
//!
//! # Layout
//!
//! - [`StackOptions`], [`Stack`]: everything together; the part that others use.
//! - [`Cluster`], [`Instance`], [`Haproxy`]: one child each; what they share is a [`Service`].
//! - [`Link`]: a wire between an instance and a database that can be broken at a chosen message of PostgreSQL's.
//! - [`control`]: the socket through which `kambana local` reaches a running `kambana up`.
//! - [`record`]: `DIR/up.json`, what runs where.
//! - the rest: ports, accounts, programs, directories, waiting.
//!
//! This room knows nothing of the web application but its command line, its environment and `/health/ready`.
//!
//! Crash rule: if this process dies, its children are ended by the kernel where `setpriv` exists; what is left over
//! is found through `up.json` and by working directory, and ended by the next start on the same directory.

mod account;
mod cluster;
pub mod control;
mod error;
mod haproxy;
pub mod http;
mod instance;
pub mod link;
mod place;
mod ports;
mod process;
mod programs;
pub mod record;
mod secrets;
mod service;
mod stack;
mod target;
mod template;
mod wait;

pub use account::Account;
pub use cluster::{Cluster, ClusterConfig, OWNER};
pub use error::LocalError;
pub use haproxy::{Behind, Haproxy, HaproxyConfig};
pub use instance::{Instance, InstanceConfig, Wiring};
pub use link::{Fault, Heard, Link, LinkCounts, Passing, Then, Way};
pub use place::Place;
pub use ports::{Port, PortChoice};
pub use process::{Launch, Process, ProcessId};
pub use programs::{PostgresPrograms, Programs};
pub use secrets::Secrets;
pub use service::{Service, ServiceState};
pub use stack::{ProxyPorts, Stack, StackOptions};
pub use target::{Action, Target};
pub use wait::Patience;
