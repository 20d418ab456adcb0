//! The one place that decides who may do what.

use crate::cluster::Role;
use roost_model::name::AppName;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Nobody known: no token, or a wrong one.
    Anonymous,
    /// The holder of a token.
    Token {
        /// The token's id.
        id: String,
        /// Its name, for people.
        name: String,
        /// What it may do.
        scope: Scope,
    },
    /// roost itself, for instance a deployment that goes on after a restart.
    Platform,
}

/// What a token may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Admin,
    /// Everything with one app, but not to create or delete it.
    Deploy(AppName),
}

impl Scope {
    /// Reads the stored form: `admin` or `deploy:APP`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "admin" => Some(Self::Admin),
            Some(("deploy", app)) => AppName::parse(app).ok().map(Self::Deploy),
            _ => None,
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::Deploy(app) => write!(f, "deploy:{app}"),
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// See the node and the token itself.
    SeePlatform,
    /// List apps.
    ListApps,
    /// Create an app.
    CreateApp,
    /// Delete an app.
    DeleteApp,
    /// See an app, its machines, releases, deployments, names of secrets.
    SeeApp,
    /// Read an app's logs.
    ReadLogs,
    /// Read what is counted of all apps.
    ReadMetrics,
    /// Deploy, roll back, build.
    Deploy,
    /// Create, change, start, stop, remove machines.
    ManageMachines,
    /// Run a command in a machine.
    Exec,
    /// Set and remove secrets.
    ManageSecrets,
    /// Add and remove custom host names and their certificates.
    ManageCertificates,
    /// Give addresses to an app, and take them from it.
    ManageAddresses,
    /// Pull images from the built-in registry.
    PullImages,
    /// Push images to, and delete them from, the built-in registry.
    PushImages,
}

/// A request was not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No token, or one that is not known.
    #[error("this needs a valid token")]
    Unauthenticated,
    /// The token may not do this.
    #[error("this token does not allow it")]
    Forbidden,
}

/// A peer of the cluster may not ask a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker answers the role `api` only, and the caller's is `{}`", role.map_or("none", Role::as_str))]
pub struct PeerDenied {
    role: Option<Role>,
}

/// Decides whether a peer of the cluster may ask a worker.
pub fn allow_worker_call(role: Option<Role>) -> Result<(), PeerDenied> {
    match role {
        Some(Role::Api) => Ok(()),
        Some(Role::Worker | Role::Edge) | None => Err(PeerDenied { role }),
    }
}

/// Decides whether `caller` may do `action`, to `app` if it is about one.
///
/// What is not allowed by a line here is denied.
pub fn allow(caller: &Caller, action: Action, app: Option<&AppName>) -> Result<(), Denied> {
    match caller {
        Caller::Anonymous => Err(Denied::Unauthenticated),
        Caller::Platform
        | Caller::Token {
            scope: Scope::Admin,
            ..
        } => Ok(()),
        Caller::Token {
            scope: Scope::Deploy(own),
            ..
        } => match action {
            Action::SeePlatform => Ok(()),
            Action::SeeApp
            | Action::ReadLogs
            | Action::Deploy
            | Action::ManageMachines
            | Action::Exec
            | Action::ManageSecrets
            | Action::ManageCertificates
            | Action::ManageAddresses
            | Action::PullImages
            | Action::PushImages
                if app == Some(own) =>
            {
                Ok(())
            }
            Action::ListApps
            | Action::ReadMetrics
            | Action::CreateApp
            | Action::DeleteApp
            | Action::SeeApp
            | Action::ReadLogs
            | Action::Deploy
            | Action::ManageMachines
            | Action::Exec
            | Action::ManageSecrets
            | Action::ManageCertificates
            | Action::ManageAddresses
            | Action::PullImages
            | Action::PushImages => Err(Denied::Forbidden),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Caller, Denied, Scope, allow};
    use roost_model::name::AppName;

    fn app(name: &str) -> AppName {
        AppName::parse(name).unwrap()
    }

    #[test]
    fn nobody_may_do_nothing() {
        for action in [
            Action::SeePlatform,
            Action::ListApps,
            Action::Deploy,
            Action::PullImages,
        ] {
            assert_eq!(
                allow(&Caller::Anonymous, action, None),
                Err(Denied::Unauthenticated)
            );
        }
    }

    #[test]
    fn a_deploy_token_is_good_for_its_app_only() {
        let caller = Caller::Token {
            id: "t".into(),
            name: "ann".into(),
            scope: Scope::Deploy(app("web")),
        };
        assert_eq!(allow(&caller, Action::Deploy, Some(&app("web"))), Ok(()));
        assert_eq!(
            allow(&caller, Action::Deploy, Some(&app("other"))),
            Err(Denied::Forbidden)
        );
        assert_eq!(
            allow(&caller, Action::DeleteApp, Some(&app("web"))),
            Err(Denied::Forbidden)
        );
        assert_eq!(allow(&caller, Action::Deploy, None), Err(Denied::Forbidden));
    }

    #[test]
    fn a_scope_reads_back_and_an_unknown_one_is_none() {
        for scope in [Scope::Admin, Scope::Deploy(app("web"))] {
            assert_eq!(Scope::parse(&scope.to_string()), Some(scope));
        }
        assert_eq!(Scope::parse("root"), None);
        assert_eq!(Scope::parse("admin:x"), None);
    }
}
