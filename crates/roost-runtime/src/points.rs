//! Points at which a kill would matter: something durable, or something on the
//! host, is about to change or has changed.
//!
//! A point is an event for `tracing`, so `--log roost::point=trace` shows the
//! order of things, and a process may have a hook that is called at each. A
//! debug build of `roostd` can be told to die at one: `make test-crash`.

use std::fmt::Debug;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// The target of these events. Their field `point` is the name.
const TARGET: &str = "roost::point";

/// Called with the name of each point, by the thread that passes it.
pub type Hook = Box<dyn Fn(&str) + Send + Sync>;

/// Passes a point.
pub fn pass(name: &'static str) {
    tracing::trace!(target: TARGET, point = name);
}

/// The layer that calls the hook.
pub(crate) fn layer<S>(hook: Hook) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    Watch(hook).with_filter(filter_fn(|event| event.target() == TARGET))
}

struct Watch(Hook);

impl<S: Subscriber> Layer<S> for Watch {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut CallWithName(&self.0));
    }
}

struct CallWithName<'a>(&'a Hook);

impl Visit for CallWithName<'_> {
    fn record_str(&mut self, _: &Field, name: &str) {
        (self.0)(name);
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

#[cfg(test)]
mod tests {
    use super::{layer, pass};
    use std::sync::mpsc;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn a_hook_sees_the_points_that_are_passed_and_nothing_else() {
        let (sender, seen) = mpsc::channel();
        let hook = move |name: &str| drop(sender.send(name.to_owned()));
        let subscriber = tracing_subscriber::registry().with(layer(Box::new(hook)));
        tracing::subscriber::with_default(subscriber, || {
            pass("one");
            tracing::error!(point = "another target's");
            pass("two");
        });
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), ["one", "two"]);
    }
}
