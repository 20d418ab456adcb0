//! A future beside another one in the same task that is polled only when it was woken itself.
//!
//! A connection's task is woken for each piece of data; what ends a connection is many small
//! waits, and to ask all of them each time costs more than a system call.

use futures_util::task::AtomicWaker;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

#[derive(Debug)]
struct Woken {
    is_woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Aside<'a, F> {
    future: Pin<&'a mut F>,
    woken: Arc<Woken>,
    waker: Waker,
}

impl<'a, F: Future> Aside<'a, F> {
    /// A future that has not been polled.
    pub(crate) fn new(future: Pin<&'a mut F>) -> Self {
        let woken = Arc::new(Woken {
            is_woken: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        let waker = Waker::from(woken.clone());
        Self {
            future,
            woken,
            waker,
        }
    }

    /// Polls the future if it has something to say.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        // First who is to be woken, then whether it has been: between the two nothing is missed.
        self.woken.task.register(cx.waker());
        if !self.woken.is_woken.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        self.future
            .as_mut()
            .poll(&mut Context::from_waker(&self.waker))
    }
}

#[cfg(test)]
mod tests {
    use super::Aside;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;
    use std::time::Duration;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn it_is_polled_when_it_is_woken_and_not_with_its_task() {
        let (notify, n_polls) = (Notify::new(), AtomicUsize::new(0));
        let mut notified = pin!(notify.notified());
        let mut counted = pin!(poll_fn(|cx| {
            n_polls.fetch_add(1, Ordering::Relaxed);
            notified.as_mut().poll(cx)
        }));
        let mut aside = Aside::new(counted.as_mut());
        for _ in 0..5 {
            let first = poll_fn(|cx| Poll::Ready(aside.poll(cx)));
            assert!(first.await.is_pending());
        }
        assert_eq!(n_polls.load(Ordering::Relaxed), 1);
        let later = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            notify.notify_one();
        };
        tokio::join!(poll_fn(|cx| aside.poll(cx)), later);
        assert_eq!(n_polls.load(Ordering::Relaxed), 2);
    }
}
