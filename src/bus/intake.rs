//! How much is taken in: bytes of deliveries in hand, and how many at once.
//!
//! A prefetch bounds messages, not bytes, and lapin reads whatever comes. So
//! what a connection reads is weighed where its bytes pass
//! ([`filter`](super::filter)), each delivery keeps its weight until it is
//! settled, and nothing more is read while the scales are full. That keeps the
//! process small, but not the broker, which has sent all of the prefetch on its
//! way: so the [`Window`] begins small, and widens only while deliveries are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config;

/// The factor by which a window grows each time that it is widened.
const WIDENING_FACTOR: u16 = 4;
/// The time within which a window of deliveries must be settled for the window to be
/// widened, where some of them were delivered before. What takes longer would only be held
/// for longer.
const SETTLED_SOON: Duration = Duration::from_secs(1);
/// The fewest deliveries that a window has, unless `bus.prefetch` is less: with fewer, each
/// would wait for the commit of the one before. If these are too heavy, what is too much
/// is not read from the connection.
const MIN_WINDOW: u16 = 8;
/// What the limit of bytes is divided by for the most that a widened window may be expected
/// to weigh, going by the mean size of the deliveries of the last one: a quarter.
const WIDENED_WINDOW_DIVISOR: usize = 4;
/// What the limit of bytes is divided by for the bytes in hand down to which they must fall
/// before a consumer begins again, and for what a window full of the largest deliveries
/// may weigh: half.
const EASED_DIVISOR: usize = 2;

/// Bytes of deliveries in hand, of all connections one after the other, and the
/// most that there may be.
#[derive(Debug)]
pub(super) struct Intake {
    limit: usize,
    in_hand: AtomicUsize,
    /// Whoever waits for room to read. One connection reads at a time.
    reader: AtomicWaker,
    eased: Notify,
}

/// What a delivery weighs, until it is dropped.
#[derive(Debug)]
pub(super) struct Weight {
    intake: Arc<Intake>,
    bytes: usize,
}

/// Weighs what one connection reads.
#[derive(Debug)]
pub(super) struct Scales {
    intake: Arc<Intake>,
    /// Of deliveries that were read and not handed out yet, in order.
    read: Mutex<VecDeque<Weight>>,
    /// The largest of all, in bytes.
    heaviest: AtomicUsize,
    /// Whether everything may be read, however much is in hand.
    open: AtomicBool,
    full: Notify,
}

impl Intake {
    /// At most so many bytes, and one delivery more.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            in_hand: AtomicUsize::new(0),
            reader: AtomicWaker::new(),
            eased: Notify::new(),
        })
    }

    fn add(self: &Arc<Self>, bytes: usize) -> Weight {
        self.in_hand.fetch_add(bytes, Ordering::AcqRel);
        Weight {
            intake: Arc::clone(self),
            bytes,
        }
    }

    fn is_within(&self, limit: usize) -> bool {
        self.in_hand.load(Ordering::Acquire) <= limit
    }

    /// Returns once there is room again for more than a few deliveries.
    pub(super) async fn eased(&self) {
        let enough = self.limit / EASED_DIVISOR;
        while !self.is_within(enough) {
            let eased = self.eased.notified();
            if self.is_within(enough) {
                return;
            }
            eased.await;
        }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        let Intake {
            limit,
            in_hand,
            reader,
            eased,
        } = &*self.intake;
        let before = in_hand.fetch_sub(self.bytes, Ordering::AcqRel);
        let after = before - self.bytes;
        let passed = |mark: usize| before > mark && after <= mark;
        if passed(*limit) {
            reader.wake();
        }
        if passed(limit / EASED_DIVISOR) {
            // Kept for whoever is about to wait.
            eased.notify_one();
        }
    }
}

impl Scales {
    pub(super) fn new(intake: &Arc<Intake>) -> Arc<Self> {
        Arc::new(Self {
            intake: Arc::clone(intake),
            read: Mutex::default(),
            heaviest: AtomicUsize::new(0),
            open: AtomicBool::new(false),
            full: Notify::new(),
        })
    }

    /// A delivery of so many bytes is being read.
    pub(super) fn weigh(&self, bytes: usize) {
        let weight = self.intake.add(bytes);
        self.heaviest.fetch_max(bytes, Ordering::Relaxed);
        self.lock().push_back(weight);
    }

    /// Bytes of the largest delivery that was read.
    pub(super) fn heaviest(&self) -> usize {
        self.heaviest.load(Ordering::Relaxed)
    }

    /// Whether there is no room for more.
    pub(super) fn is_full(&self) -> bool {
        !self.intake.is_within(self.intake.limit) && !self.open.load(Ordering::Acquire)
    }

    /// Lets everything be read from now on, or no more than fits: an answer of the
    /// broker stands behind the deliveries that are on their way.
    pub(super) fn let_through(&self, everything: bool) {
        self.open.store(everything, Ordering::Release);
        self.intake.reader.wake();
    }

    /// Whether more may be read; if not, the task is woken when it may.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_full() {
            return Poll::Ready(());
        }
        self.intake.reader.register(cx.waker());
        if !self.is_full() {
            return Poll::Ready(());
        }
        self.full.notify_one();
        Poll::Pending
    }

    /// The weight of the next delivery that lapin hands out, which is of so many
    /// bytes.
    pub(super) fn take(&self, bytes: usize) -> Weight {
        let read = self.lock().pop_front();
        read.unwrap_or_else(|| self.intake.add(bytes))
    }

    /// Forgets what was read and will not be handed out any more.
    pub(super) fn clear(&self) {
        let read = std::mem::take(&mut *self.lock());
        drop(read);
    }

    /// Returns once reading had to stop.
    pub(super) async fn full(&self) {
        self.full.notified().await;
    }

    /// A panic elsewhere leaves the row whole: every change is one call.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Weight>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of deliveries that may be in flight: as many as are configured while they
/// are small, fewer when they are large.
#[derive(Debug)]
pub(super) struct Window {
    wide: u16,
    most: u16,
    limit: usize,
    /// As wide as it is at first.
    first: u16,
    /// Whether deliveries were too heavy since the consumer began: see
    /// [`narrow`](Window::narrow).
    wary: bool,
    /// Deliveries since it was last looked at, and their bytes.
    seen: u16,
    bytes: usize,
    /// Whether one of them was delivered before.
    again: bool,
    /// When that was; not yet since the consumer began, whose first deliveries
    /// come at once, settled or not.
    since: Option<Instant>,
}

impl Window {
    /// As narrow as lets as many of the largest events fit.
    pub(super) fn new(bus: &config::Bus) -> Self {
        let first = fitting(bus.prefetch_bytes, bus.max_body_bytes, bus.prefetch);
        Self {
            wide: first,
            first,
            wary: false,
            most: bus.prefetch,
            limit: bus.prefetch_bytes,
            seen: 0,
            bytes: 0,
            again: false,
            since: None,
        }
    }

    /// The prefetch.
    pub(super) fn wide(&self) -> u16 {
        self.wide
    }

    /// Counts a delivery; whether it is time to [`widen`](Window::widen), because
    /// a window of them has come. One that was delivered before may be among those
    /// that are settled one by one: then as many must have been settled soon after
    /// the window before.
    pub(super) fn seen(&mut self, bytes: usize, again: bool, now: Instant) -> bool {
        if self.wide == self.most {
            return false;
        }
        self.seen += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.again |= again;
        let sample = if self.wary { self.most } else { self.wide };
        if self.seen < sample {
            return false;
        }
        let (seen, bytes) = (usize::from(self.seen), self.bytes);
        let (since, again) = (self.since.replace(now), self.again);
        (self.seen, self.bytes, self.again) = (0, 0, false);
        let wider = usize::from(self.wide.saturating_mul(WIDENING_FACTOR));
        let is_quick = since.is_some_and(|since| now - since < SETTLED_SOON);
        (is_quick || !again) && bytes / seen * wider <= self.limit / WIDENED_WINDOW_DIVISOR
    }

    pub(super) fn widen(&mut self) {
        self.resize(self.wide.saturating_mul(WIDENING_FACTOR).min(self.most));
    }

    /// A consumer begins after one that broke: what that one held comes again,
    /// and may be what broke it.
    pub(super) fn restart(&mut self) {
        self.wary = false;
        self.resize(self.first.min(self.wide));
    }

    fn resize(&mut self, wide: u16) {
        self.wide = wide;
        (self.seen, self.bytes, self.again, self.since) = (0, 0, false, None);
    }

    /// Deliveries were too heavy, the heaviest so: as many of it are to fit. From
    /// now on it takes as many deliveries to widen as were given back, for what was
    /// small among them comes first again, and the heavy ones are behind it.
    pub(super) fn narrow(&mut self, heaviest: usize) {
        self.wary = true;
        let wide = fitting(self.limit, heaviest, self.most);
        self.resize(wide.min(self.wide / 2).max(MIN_WINDOW.min(self.most)));
    }

    /// Whether it can be narrower.
    pub(super) fn is_wide(&self) -> bool {
        self.wide > MIN_WINDOW
    }
}

/// How many deliveries of so many bytes may be in flight, of at most so many.
fn fitting(limit: usize, bytes: usize, most: u16) -> u16 {
    let fitting = limit / EASED_DIVISOR / bytes.max(1);
    let fitting = u16::try_from(fitting).unwrap_or(u16::MAX);
    fitting.max(MIN_WINDOW).min(most)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use futures::task::noop_waker;

    use super::*;

    fn room(scales: &Scales) -> bool {
        let waker = noop_waker();
        scales
            .poll_room(&mut Context::from_waker(&waker))
            .is_ready()
    }

    #[test]
    fn nothing_more_is_read_while_the_scales_are_full() {
        let intake = Intake::new(100);
        let scales = Scales::new(&intake);
        scales.weigh(60);
        scales.weigh(41);
        assert!(!room(&scales));
        assert_eq!(scales.full().now_or_never(), Some(()));
        let (first, second) = (scales.take(60), scales.take(41));
        assert!(!room(&scales), "what is taken is still in hand");
        drop(first);
        assert!(room(&scales));
        assert_eq!(intake.eased().now_or_never(), Some(()));
        drop(second);
        assert_eq!(intake.in_hand.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_a_connection_did_not_hand_out_weighs_nothing_after_its_end() {
        let intake = Intake::new(100);
        let scales = Scales::new(&intake);
        scales.weigh(150);
        assert_eq!(intake.eased().now_or_never(), None);
        drop(scales);
        assert_eq!(intake.eased().now_or_never(), Some(()));
    }

    #[tokio::test]
    async fn whoever_waits_for_ease_is_told() {
        let intake = Intake::new(100);
        let weight = intake.add(51);
        let waiting = tokio::spawn({
            let intake = Arc::clone(&intake);
            async move { intake.eased().await }
        });
        tokio::task::yield_now().await;
        drop(weight);
        waiting.await.unwrap();
    }

    fn bus(prefetch: u16, prefetch_bytes: usize, max_body_bytes: usize) -> config::Bus {
        config::Bus {
            prefetch,
            prefetch_bytes,
            max_body_bytes,
            ..config::Bus::default()
        }
    }

    /// The widths while so many deliveries of so many bytes come, so many a second,
    /// for the first time or again.
    fn widths(
        window: &mut Window,
        (deliveries, bytes): (u32, usize),
        (rate, again): (u32, bool),
    ) -> Vec<u16> {
        let (mut widths, mut now) = (vec![window.wide()], Instant::now());
        for _ in 0..deliveries {
            now += Duration::from_secs(1) / rate;
            if window.seen(bytes, again, now) {
                window.widen();
                widths.push(window.wide());
            }
        }
        widths
    }

    #[test]
    fn a_window_widens_while_deliveries_are_small() {
        let mut window = Window::new(&bus(2_000, 64 << 20, 1 << 20));
        let all = [32, 128, 512, 2_000];
        assert_eq!(widths(&mut window, (10_000, 700), (10_000, false)), all);
        window.restart();
        assert_eq!(widths(&mut window, (10_000, 700), (10_000, false)), all);
        let mut window = Window::new(&bus(2_000, 64 << 20, 1 << 20));
        assert_eq!(
            widths(&mut window, (10_000, 64 << 10), (10_000, false)),
            [32, 128]
        );
        let mut window = Window::new(&bus(10, 1 << 20, 128 << 20));
        assert_eq!(widths(&mut window, (100, 700), (100, false)), [8, 10]);
    }

    #[test]
    fn a_window_of_what_comes_again_is_no_wider_than_what_is_settled_soon() {
        let mut window = Window::new(&bus(2_000, 64 << 20, 1 << 20));
        assert_eq!(widths(&mut window, (10_000, 700), (30, true)), [32]);
        let wider = widths(&mut window, (10_000, 700), (200, true));
        assert_eq!(wider, [32, 128, 512]);
        // Slow, but not for what it is.
        let widest = widths(&mut window, (10_000, 700), (30, false));
        assert_eq!(widest, [512, 2_000]);
    }

    #[test]
    fn an_answer_comes_through_full_scales() {
        let intake = Intake::new(100);
        let scales = Scales::new(&intake);
        scales.weigh(200);
        assert!(!room(&scales));
        scales.let_through(true);
        assert!(room(&scales));
        scales.let_through(false);
        assert!(!room(&scales));
    }

    #[test]
    fn a_window_narrows_and_widens_again_with_care() {
        let mut window = Window::new(&bus(2_000, 64 << 20, 1 << 20));
        let mut steps = |bytes: usize| {
            window.narrow(bytes);
            window.wide()
        };
        assert_eq!([steps(1_000), steps(1_000), steps(1_000)], [16, 8, 8]);
        let mut window = Window::new(&bus(2_000, 64 << 20, 1 << 10));
        assert_eq!(window.wide(), 2_000);
        window.narrow(4 << 20);
        assert_eq!(window.wide(), 8);
        // A few small ones say nothing of what is behind them.
        let small = widths(&mut window, (1_999, 700), (10_000, false));
        assert_eq!(small, [8]);
        let small = widths(&mut window, (4_001, 700), (10_000, false));
        assert_eq!(small, [8, 32, 128, 512]);
    }
}
