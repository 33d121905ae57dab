//! Tests against real servers: every test has databases (and where it needs them instances and HAProxy) of its own.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod haproxy;
mod load;
mod local;
mod pool;
mod support;
mod twins;
mod up;
