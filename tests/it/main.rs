//! Tests against real servers: every test has databases (and where it needs them instances and HAProxy) of its own.

mod local;
mod support;
