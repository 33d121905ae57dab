//! What a stack consists of.

use std::path::{Path, PathBuf};

use crate::local::PortChoice;

/// What to run.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// The data directory.
    pub dir: PathBuf,
    /// One port per side.
    pub pg: Vec<PortChoice>,
    /// One port per instance.
    pub web: Vec<PortChoice>,
    /// The `kambana` program; needed for instances and to install the pool's objects.
    pub program: Option<PathBuf>,
    /// Whether to run HAProxy; needs two or three sides and two instances.
    pub haproxy: Option<ProxyPorts>,
    /// Keeps the template of empty clusters; in the data directory if not given.
    pub template_cache: Option<PathBuf>,
    /// Whether a new cluster must survive a power cut right after it was made.
    pub durable: bool,
    /// Further settings of the instances, as in `env.example`.
    pub extra_env: Vec<(String, String)>,
    /// Added to the environment of the database servers.
    pub server_env: Vec<(String, String)>,
    /// Settings of the database servers, stronger than the usual ones.
    pub server_settings: Vec<(String, String)>,
    /// Whether each instance reaches each side over a [`Link`](crate::local::Link) of its own, see [`Stack::link`](super::Stack::link).
    pub links: bool,
    /// Settings of single instances, counted from 0: the stronger ones. An instance that reaches its databases or its
    /// peers by another way than the rest has its `DBn_HOST`, `DBn_PORT` or `PEERS` here.
    pub instance_env: Vec<(usize, String, String)>,
}

/// Where HAProxy listens.
#[derive(Clone, Debug)]
pub struct ProxyPorts {
    /// Address for HTTP, without port.
    pub address: String,
    /// For HTTP.
    pub http: PortChoice,
    /// For PostgreSQL clients, on loopback.
    pub postgres: PortChoice,
    /// For statistics, on loopback.
    pub stats: PortChoice,
}

impl StackOptions {
    /// Two databases with the application's tables on free ports, nothing else. `template_cache` is shared by every
    /// run of a test suite.
    pub fn pair(dir: &Path, template_cache: &Path) -> StackOptions {
        StackOptions {
            dir: dir.to_path_buf(),
            pg: vec![PortChoice::Any; 2],
            web: Vec::new(),
            program: None,
            haproxy: None,
            template_cache: Some(template_cache.to_path_buf()),
            durable: false,
            extra_env: Vec::new(),
            server_env: Vec::new(),
            server_settings: Vec::new(),
            links: false,
            instance_env: Vec::new(),
        }
    }

    /// And one database more, on a free port.
    #[must_use]
    pub fn with_third_side(mut self) -> StackOptions {
        self.pg.push(PortChoice::Any);
        self
    }

    /// And two instances of `program` on free ports.
    #[must_use]
    pub fn with_instances(mut self, program: &Path) -> StackOptions {
        self.web = vec![PortChoice::Any; 2];
        self.program = Some(program.to_path_buf());
        self
    }

    /// And HAProxy on free ports of loopback.
    #[must_use]
    pub fn with_haproxy(mut self) -> StackOptions {
        self.haproxy = Some(ProxyPorts {
            address: "127.0.0.1".into(),
            http: PortChoice::Any,
            postgres: PortChoice::Any,
            stats: PortChoice::Any,
        });
        self
    }

    /// And a setting of the instances, as in `env.example`.
    #[must_use]
    pub fn with_setting(mut self, name: &str, value: &str) -> StackOptions {
        self.extra_env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// And a variable in the environment of the database servers.
    #[must_use]
    pub fn with_server_variable(mut self, name: &str, value: &str) -> StackOptions {
        self.server_env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// And a setting of the database servers, as in `postgresql.conf`.
    #[must_use]
    pub fn with_server_setting(mut self, name: &str, value: &str) -> StackOptions {
        self.server_settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// And a link that can be broken between each instance and each side.
    #[must_use]
    pub fn with_links(mut self) -> StackOptions {
        self.links = true;
        self
    }

    /// And a setting of one instance, counted from 0.
    #[must_use]
    pub fn with_instance_setting(mut self, index: usize, name: &str, value: &str) -> StackOptions {
        self.instance_env.push((index, name.to_owned(), value.to_owned()));
        self
    }

    /// Everything an instance is told beside its wiring, the strongest last.
    pub(super) fn env_of(&self, instance: usize) -> Vec<(String, String)> {
        let own = self.instance_env.iter().filter(|(index, ..)| *index == instance);
        let own = own.map(|(_, name, value)| (name.clone(), value.clone()));
        self.extra_env.iter().cloned().chain(own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_one_instance_is_the_stronger_one_and_its_own() {
        let options = StackOptions::pair(Path::new("x"), Path::new("y"))
            .with_instance_setting(1, "DB1_PORT", "1")
            .with_setting("DB1_PORT", "2");
        let pair = |value: &str| ("DB1_PORT".to_owned(), value.to_owned());
        assert_eq!(options.env_of(0), [pair("2")]);
        assert_eq!(options.env_of(1), [pair("2"), pair("1")]);
    }
}
