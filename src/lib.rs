//! Kambana: two (or more) ordinary PostgreSQL databases kept identical from the application.
//!
//! # Layout, in the order a request flows
//!
//! - [`config`]: every setting, from the environment.
//! - [`multipool`]: the heart. One write on every side or on none, healed without a human.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod local;
pub mod multipool;
