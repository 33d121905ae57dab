//! Kambana: two (or more) ordinary PostgreSQL databases kept identical from the application.
//!
//! # Layout, in the order a request flows
//!
//! - [`config`]: every setting, from the environment.
//! - [`multipool`]: the heart. One write on every side or on none, healed without a human.
//! - [`items`], [`servers`]: one file a subject: type, validation and SQL, over the heart; [`listing`] holds what their lists share.
//! - [`session`]: PHP's session format and the store of `php_session`.
//! - [`web`]: one instance: routes, pages, JSON, errors, security.
//! - [`local`]: PostgreSQL clusters, HAProxy and instances on this machine, with their faults; [`drill`]: a fault campaign
//!   with a verdict; [`cli`]: the commands.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod drill;
pub mod items;
pub mod listing;
pub mod local;
pub mod multipool;
pub mod servers;
pub mod session;
pub mod web;
