//! Large pictures one at a time. The limits allow a single picture some gigabytes while it is decoded; as many as there are
//! workers would be more than a machine has, and a file that asks for them has some kilobytes.

use std::{
    cell::RefCell,
    sync::{Condvar, Mutex, PoisonError},
};

/// From here on a picture counts as large: 8K video.
const LARGE_PIXELS: u64 = 1 << 25;

/// Likewise for the bytes of a file or of an array.
const LARGE_BYTES: u64 = 1 << 28;

/// Whether somebody has the turn.
static IS_TAKEN: Mutex<bool> = Mutex::new(false);

static GIVEN_BACK: Condvar = Condvar::new();

/// The turn of a large picture, until it is dropped, on whatever thread.
#[derive(Debug)]
pub struct LargeTurn(());

impl LargeTurn {
    fn wait() -> Self {
        // A panic of another thread concerns its own picture.
        let mut is_taken = IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        while *is_taken {
            is_taken = GIVEN_BACK.wait(is_taken).unwrap_or_else(PoisonError::into_inner);
        }
        *is_taken = true;
        LargeTurn(())
    }
}

impl Drop for LargeTurn {
    fn drop(&mut self) {
        *IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        GIVEN_BACK.notify_one();
    }
}

thread_local! {
    /// Whether this thread is at work on a sample, and the turn that it took for it.
    static WORK: RefCell<Option<Option<LargeTurn>>> = const { RefCell::new(None) };
}

/// Runs `work`, which waits in the middle until no other thread is at work on a large picture, if it meets one itself. What it
/// reads from files must not leave it, unless it takes the turn along ([`keep_turn`]). It must not wait for another thread's `work`.
pub fn with_large_pictures_in_turn<T>(work: impl FnOnce() -> T) -> T {
    /// Also after a panic.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            WORK.with_borrow_mut(Option::take);
        }
    }
    WORK.set(Some(None));
    let _end = End;
    work()
}

/// To be called before memory for so many pixels or bytes is taken.
pub(super) fn wait_for_turn(pixels: u64, bytes: u64) {
    if pixels < LARGE_PIXELS && bytes < LARGE_BYTES {
        return;
    }
    WORK.with_borrow_mut(|work| {
        if let Some(turn @ None) = work {
            *turn = Some(LargeTurn::wait());
        }
    });
}

/// The turn that the thread's work has taken, to be kept for as long as the picture is in memory; `None` where it took none.
pub fn keep_turn() -> Option<LargeTurn> {
    WORK.with_borrow_mut(|work| work.as_mut().and_then(Option::take))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc, thread, time::Duration};

    #[test]
    fn one_large_picture_at_a_time() {
        let (done, small_or_large) = mpsc::channel();
        let mut other = None;
        with_large_pictures_in_turn(|| {
            wait_for_turn(LARGE_PIXELS, 0);
            // A second one of the same sample does not wait for the first.
            wait_for_turn(0, LARGE_BYTES);
            other = Some(thread::spawn(move || {
                with_large_pictures_in_turn(|| {
                    wait_for_turn(LARGE_PIXELS - 1, LARGE_BYTES - 1);
                    done.send("small").unwrap();
                    wait_for_turn(0, LARGE_BYTES);
                    done.send("large").unwrap();
                });
            }));
            assert_eq!(small_or_large.recv(), Ok("small"));
            assert_eq!(small_or_large.recv_timeout(Duration::from_millis(100)), Err(mpsc::RecvTimeoutError::Timeout));
        });
        assert_eq!(small_or_large.recv(), Ok("large"));
        other.unwrap().join().unwrap();
        let panicked = std::panic::catch_unwind(|| {
            with_large_pictures_in_turn(|| {
                wait_for_turn(LARGE_PIXELS, 0);
                std::panic::resume_unwind(Box::new(()))
            })
        });
        assert!(panicked.is_err());
        with_large_pictures_in_turn(|| wait_for_turn(LARGE_PIXELS, 0));
        // A turn that is taken along lasts as long as what it was taken for.
        let kept = with_large_pictures_in_turn(|| {
            wait_for_turn(LARGE_PIXELS, 0);
            keep_turn()
        });
        assert!(kept.is_some());
        let (done, is_done) = mpsc::channel();
        let other = thread::spawn(move || {
            with_large_pictures_in_turn(|| {
                wait_for_turn(LARGE_PIXELS, 0);
                done.send(()).unwrap();
            });
        });
        assert_eq!(is_done.recv_timeout(Duration::from_millis(100)), Err(mpsc::RecvTimeoutError::Timeout));
        drop(kept);
        assert_eq!(is_done.recv(), Ok(()));
        other.join().unwrap();
        // Outside of any work nobody waits.
        wait_for_turn(LARGE_PIXELS, 0);
        wait_for_turn(LARGE_PIXELS, 0);
    }
}
