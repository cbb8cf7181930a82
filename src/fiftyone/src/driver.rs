//! The driver with the threads that it lives on: they begin together, and end in order.
//!
//! When a client goes, the driver takes leave of the server in tasks of its own. If their threads end meanwhile, one task finds that
//! the one it asks is gone already, and panics. So the driver is shut down first, and what is still at work then ends in silence.

use std::{
    cell::OnceCell,
    future::Future,
    panic,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mongodb::{Client, options::ClientOptions};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::{JoinError, JoinHandle},
    time::timeout,
};

/// How long taking leave may last: a server that is gone or hangs must not hold up the end.
const LEAVE: Duration = Duration::from_secs(2);

thread_local! {
    /// Of the threads of a driver: whether it ends.
    static ENDS: OnceCell<Arc<AtomicBool>> = const { OnceCell::new() };
}

/// Threads for the driver, and the driver once there is a client.
pub(super) struct Driver {
    // Fields drop in this order.
    client: Option<Client>,
    runtime: Runtime,
    ends: Arc<AtomicBool>,
}

impl Driver {
    /// Starts the threads.
    pub(super) fn start() -> std::io::Result<Self> {
        silence_what_ends();
        let ends = Arc::new(AtomicBool::new(false));
        let of_thread = Arc::clone(&ends);
        // Two threads: the driver's monitor must go on while a large reply is parsed.
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("camflow-mongodb")
            .on_thread_start(move || drop(ENDS.with(|ends| ends.set(Arc::clone(&of_thread)))))
            .enable_all()
            .build()?;
        Ok(Driver { client: None, runtime, ends })
    }

    /// A client, which ends with the driver.
    pub(super) fn connect(&mut self, options: ClientOptions) -> mongodb::error::Result<Client> {
        // It spawns its monitors on creation, so it has to be inside the runtime.
        let client = self.runtime.block_on(async { Client::with_options(options) })?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// Blocks until it is done.
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Begins something that goes on meanwhile.
    pub(super) fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
        Task { handle: self.runtime.spawn(future), runtime: self.runtime.handle().clone() }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(client) = self.client.take() {
            let _ = self.runtime.block_on(async { timeout(LEAVE, client.shutdown()).await });
        }
    }
}

/// Something that a driver does meanwhile. It stops when nobody waits for it any more.
#[derive(Debug)]
pub(super) struct Task<T> {
    handle: JoinHandle<T>,
    runtime: Handle,
}

impl<T> Task<T> {
    /// Waits for it.
    pub(super) async fn wait(&mut self) -> Result<T, JoinError> {
        (&mut self.handle).await
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if !self.handle.is_finished() {
            self.handle.abort();
            let _ = self.runtime.block_on(&mut self.handle);
        }
    }
}

/// Panics of a driver that ends say nothing of the run.
fn silence_what_ends() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let ends = ENDS.try_with(|ends| ends.get().is_some_and(|ends| ends.load(Ordering::Relaxed)));
            if !ends.unwrap_or(false) {
                tell(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn panic_on(driver: &Driver, text: &'static str) {
        let mut task = driver.spawn(async move { panic!("{text}") });
        let failed: Result<(), JoinError> = driver.block_on(task.wait());
        assert!(failed.expect_err("it panics").is_panic());
    }

    #[test]
    fn a_driver_is_heard_until_it_ends() {
        const CHILD: &str = "CAMFLOW_TEST_DRIVER_PANICS";
        if std::env::var_os(CHILD).is_some() {
            let driver = Driver::start().expect("threads");
            panic_on(&driver, "of a driver that lives");
            driver.ends.store(true, Ordering::Relaxed);
            panic_on(&driver, "of a driver that ends");
            return;
        }
        // Hooks belong to the process.
        let mut child = Command::new(std::env::current_exe().expect("this program"));
        child.args(["--exact", "driver::tests::a_driver_is_heard_until_it_ends", "--nocapture"]).env(CHILD, "1");
        let said = child.output().expect("it runs");
        let said = String::from_utf8_lossy(&said.stderr);
        assert!(said.contains("of a driver that lives") && !said.contains("of a driver that ends"), "{said}");
    }

    #[test]
    fn what_nobody_waits_for_stops() {
        let driver = Driver::start().expect("threads");
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let task = driver.spawn(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        drop(task);
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
