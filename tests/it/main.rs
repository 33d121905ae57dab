//! Tests against real servers: every test has databases (and where it needs them instances and HAProxy) of its own.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod api;
mod bad_input;
mod bad_requests;
mod browser;
mod bulk;
mod compare;
mod conflicts;
mod conflicts_decide;
mod conflicts_foreign;
mod conflicts_held;
mod cost;
mod csv;
mod documents;
mod doors;
mod drill;
mod faults;
mod haproxy;
mod load;
mod local;
mod migrate;
mod outage;
mod pages;
mod pool;
mod rebuild;
mod sessions;
mod settings;
mod support;
mod tables;
mod three;
mod twins;
mod up;
mod votes;
