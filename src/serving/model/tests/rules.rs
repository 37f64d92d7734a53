//! Each rule by itself.

use super::store::{Happens, State, Store, Untold, What, dialog, tenant, user};
use crate::serving::model::{LoadEnd, LoadKeys, LoadTicket, LoadedRows, MemoryUse, Model};
use crate::store::commit_log::Cut;
use crate::store::read::DialogsOfUser;

pub(super) const ROOMY: usize = 1 << 30;

pub(super) fn users(users: &[usize]) -> LoadKeys {
    LoadKeys {
        users: users.iter().copied().map(user).collect(),
        dialogs: Vec::new(),
    }
}

pub(super) fn dialogs(dialogs: &[usize]) -> LoadKeys {
    LoadKeys {
        users: Vec::new(),
        dialogs: dialogs.iter().copied().map(dialog).collect(),
    }
}

/// A store, and a model in its latest state.
pub(super) struct Pair {
    pub(super) store: Store,
    pub(super) model: Model,
}

impl Pair {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self {
            store: Store::new(2),
            model: Model::new(most_bytes),
        }
    }

    pub(super) fn commit(&mut self, user: usize, in_dialog: usize, what: What) {
        let happens = Happens {
            tenant: 0,
            user,
            dialog: in_dialog,
            what,
        };
        let at = self.store.latest() as i64 + 1;
        self.store.commit(user, at, &[happens], Untold::Nothing);
    }

    /// Users of these numbers join a dialog.
    pub(super) fn join(&mut self, users: &[usize], dialog: usize) {
        for user in users {
            self.commit(*user, dialog, What::Join);
        }
        self.follow();
    }

    fn latest(&self) -> &State {
        self.store.state(self.store.latest())
    }

    fn cut(&self) -> Cut {
        self.latest().cut.clone()
    }

    pub(super) fn follow(&mut self) {
        let cut = self.cut();
        assert!(self.model.advance(&cut, self.store.records.clone()));
        self.model.check();
    }

    fn begin(&mut self, wanted: &LoadKeys) -> LoadTicket {
        self.model.begin_load(&tenant(0), wanted.clone())
    }

    fn read(&self, wanted: &LoadKeys) -> (Cut, LoadedRows) {
        (self.cut(), self.latest().read(&tenant(0), wanted))
    }

    fn end(&mut self, load: LoadTicket, (at, loaded): (Cut, LoadedRows)) -> LoadEnd {
        let ended = self.model.end_load(load, &at, loaded);
        self.model.check();
        ended
    }

    pub(super) fn load(&mut self, wanted: &LoadKeys) -> LoadEnd {
        let load = self.begin(wanted);
        let read = self.read(wanted);
        self.end(load, read)
    }

    pub(super) fn has(&mut self, n: usize) -> bool {
        self.model.user(&tenant(0), &user(n)).is_some()
    }

    fn is_right(&mut self, n: usize) {
        let expected = self.latest().user(&tenant(0), &user(n));
        assert_eq!(self.model.user(&tenant(0), &user(n)), Some(expected));
    }
}

#[test]
fn a_record_that_comes_between_the_read_and_its_end_counts_once() {
    let mut pair = Pair::new(ROOMY);
    pair.join(&[0], 0);
    let load = pair.begin(&users(&[0]));
    pair.commit(1, 0, What::Send(0));
    let read = pair.read(&users(&[0]));
    // This one is in what was read, and the next one is not.
    pair.follow();
    pair.commit(1, 0, What::Send(0));
    pair.commit(0, 1, What::Join);
    pair.follow();
    assert_eq!(pair.end(load, read), LoadEnd::Complete);
    pair.is_right(0);
    let stats = pair.model.user(&tenant(0), &user(0)).unwrap();
    assert_eq!((stats.unread, stats.dialogs), (2, 2));
}

#[test]
fn a_read_of_another_time_is_not_put_in() {
    let mut pair = Pair::new(ROOMY);
    pair.join(&[0], 0);
    let before = pair.read(&users(&[0]));
    pair.commit(1, 0, What::Send(0));
    pair.follow();
    let load = pair.begin(&users(&[0]));
    assert_eq!(pair.end(load, before), LoadEnd::OutOfStep);
    let load = pair.begin(&users(&[0]));
    pair.commit(1, 0, What::Send(0));
    let ahead = pair.read(&users(&[0]));
    assert_eq!(pair.end(load, ahead), LoadEnd::OutOfStep);
    assert!(!pair.has(0) && pair.model.is_empty());
}

#[test]
fn what_was_forgotten_is_not_brought_back_by_a_load() {
    let mut pair = Pair::new(ROOMY);
    pair.join(&[0], 0);
    let wanted = users(&[0]);
    let (load, read) = (pair.begin(&wanted), pair.read(&wanted));
    pair.model.reset(pair.cut());
    assert_eq!(pair.end(load, read.clone()), LoadEnd::Void);
    let load = pair.begin(&wanted);
    pair.model.forget_tenant(&tenant(1));
    assert_eq!(pair.end(load, read.clone()), LoadEnd::Complete);
    let load = pair.begin(&wanted);
    pair.model.forget_tenant(&tenant(0));
    assert_eq!(pair.end(load, read.clone()), LoadEnd::Void);
    let load = pair.begin(&wanted);
    pair.store.commit(0, 9, &[], Untold::Of(0));
    pair.follow();
    assert_eq!(pair.end(load, read), LoadEnd::Void);
    assert!(pair.model.is_empty());
}

#[test]
fn when_a_record_is_missing_everything_is_forgotten() {
    let mut pair = Pair::new(ROOMY);
    pair.join(&[0], 0);
    pair.load(&users(&[0]));
    pair.commit(0, 0, What::Send(0));
    pair.commit(1, 0, What::Send(0));
    let mut records = pair.store.records.clone();
    records.pop();
    let cut = pair.cut();
    assert!(!pair.model.advance(&cut, records));
    assert!(pair.model.is_empty() && *pair.model.cut() == cut);
    // And now nothing is missing.
    pair.commit(0, 0, What::Send(0));
    let cut = pair.cut();
    assert!(pair.model.advance(&cut, Vec::new()));
    assert_eq!(*pair.model.cut(), cut);
}

#[test]
fn those_who_were_not_asked_for_longest_go_first() {
    let mut pair = Pair::new(ROOMY);
    pair.join(&[0, 1, 2, 3, 4, 5], 0);
    pair.load(&users(&[0, 1, 2, 3, 4]));
    let most_bytes = pair.model.bytes();
    pair.model = Model::new(most_bytes);
    pair.follow();
    assert_eq!(pair.load(&users(&[0, 1, 2, 3, 4])), LoadEnd::Complete);
    assert!(pair.has(0));
    assert_eq!(pair.load(&users(&[5])), LoadEnd::Complete);
    assert!(!pair.has(1) && pair.has(5) && pair.has(0));
    assert!(pair.model.held().evictions > 0);
}

#[test]
fn one_who_is_too_large_for_the_others_is_not_kept() {
    let mut pair = Pair::new(ROOMY);
    for n in 0..20 {
        pair.join(&[0], n);
    }
    pair.join(&[1], 0);
    assert_eq!(pair.load(&users(&[0])), LoadEnd::Complete);
    let too_small = pair.model.bytes() * 3;
    pair.model = Model::new(too_small);
    pair.follow();
    assert_eq!(pair.load(&users(&[0, 1])), LoadEnd::Without(users(&[0])));
    assert!(pair.has(1));
    assert_eq!(pair.model.held().dialogs, 1);
}

#[test]
fn one_who_grows_is_charged_for_it() {
    let mut pair = Pair::new(ROOMY);
    pair.join(&[0], 0);
    pair.load(&users(&[0]));
    let before = pair.model.bytes();
    for n in 1..100 {
        pair.commit(0, n, What::Join);
        pair.commit(0, n, What::Read(5, 1 << 40));
    }
    pair.follow();
    assert!(pair.model.bytes() > before + 99 * 300);
    pair.is_right(0);
}

#[test]
fn a_dialog_goes_with_its_last_user_unless_it_was_asked_for() {
    let mut pair = Pair::new(ROOMY);
    pair.join(&[0], 0);
    pair.join(&[0], 1);
    pair.load(&users(&[0]));
    assert!(pair.model.dialog(&tenant(0), &dialog(1)).is_some());
    let user = pair.model.entries.user(&tenant(0), &user(0)).unwrap();
    pair.model.entries.remove_user(user);
    pair.model.check();
    assert!(pair.model.dialog(&tenant(0), &dialog(0)).is_none());
    assert!(pair.model.dialog(&tenant(0), &dialog(1)).is_some());
    // It goes on being followed, and outlives another user.
    pair.commit(1, 1, What::Send(0));
    pair.follow();
    let expected = pair.latest().dialog(&tenant(0), &dialog(1));
    let found = pair.model.dialog(&tenant(0), &dialog(1));
    assert_eq!((found, expected.messages), (Some(expected), 1));
    pair.load(&users(&[0]));
    let user = pair.model.entries.user(&tenant(0), &super::store::user(0));
    pair.model.entries.remove_user(user.unwrap());
    assert!(pair.model.dialog(&tenant(0), &dialog(1)).is_some());
    assert!(pair.model.entries.evict());
    assert!(pair.model.is_empty());
}

#[test]
fn a_dialog_that_does_not_exist_is_known_not_to() {
    let mut pair = Pair::new(ROOMY);
    assert!(pair.model.dialog(&tenant(0), &dialog(7)).is_none());
    assert_eq!(pair.load(&dialogs(&[7])), LoadEnd::Complete);
    assert_eq!(pair.load(&users(&[0])), LoadEnd::Complete);
    let nothing = pair.latest().in_dialog(&tenant(0), &user(0), &dialog(7));
    let found = pair.model.user_in_dialog(&tenant(0), &user(0), &dialog(7));
    assert_eq!(found, Some(nothing));
    assert!(
        pair.model
            .user_in_dialog(&tenant(0), &user(1), &dialog(7))
            .is_none()
    );
    pair.is_right(0);
    pair.commit(0, 7, What::Join);
    pair.commit(1, 7, What::Send(0));
    pair.follow();
    pair.is_right(0);
}

#[test]
fn two_loads_of_one_user_and_one_who_goes_meanwhile() {
    let mut pair = Pair::new(ROOMY);
    pair.join(&[0, 1], 0);
    let (first, read) = (pair.begin(&users(&[0])), pair.read(&users(&[0])));
    let second = pair.begin(&users(&[0]));
    pair.commit(1, 0, What::Send(0));
    pair.follow();
    assert_eq!(pair.end(first, read.clone()), LoadEnd::Complete);
    let third = pair.begin(&users(&[0]));
    let later = pair.read(&users(&[0]));
    assert_eq!(pair.end(second, read), LoadEnd::Complete);
    pair.is_right(0);
    pair.model.entries.evict();
    pair.commit(1, 0, What::Send(0));
    pair.follow();
    assert_eq!(pair.end(third, later), LoadEnd::Complete);
    pair.is_right(0);
}

#[test]
fn a_load_that_takes_too_long_is_void_and_what_was_kept_for_it_goes() {
    let mut pair = Pair::new(40_000);
    pair.join(&[0], 0);
    let (slow, read) = (pair.begin(&users(&[0])), pair.read(&users(&[0])));
    for _ in 0..6 {
        pair.commit(1, 0, What::Send(0));
    }
    pair.follow();
    let (quick, read_later) = (pair.begin(&users(&[0])), pair.read(&users(&[0])));
    for _ in 0..6 {
        pair.commit(1, 0, What::Send(0));
    }
    pair.follow();
    assert_eq!(pair.end(slow, read), LoadEnd::Void);
    assert_eq!(pair.end(quick, read_later), LoadEnd::Complete);
    pair.is_right(0);
    let abandoned = pair.begin(&users(&[0]));
    pair.commit(1, 0, What::Send(0));
    pair.follow();
    assert!(pair.model.loads.bytes() > 0);
    pair.model.abandon_load(abandoned);
    pair.model.check();
    pair.is_right(0);
}

#[test]
fn types_without_end_do_not_stay() {
    let mut pair = Pair::new(40_000);
    pair.join(&[0], 0);
    pair.load(&users(&[0]));
    for n in 0..200 {
        pair.commit(1, 0, What::Send(n));
        pair.commit(1, 0, What::Unsend(n));
        pair.follow();
    }
    assert!(pair.model.entries.types.bytes() <= 5_000);
    if pair.has(0) {
        pair.is_right(0);
    }
}

#[test]
fn a_page_has_what_comes_after_a_dialog_and_says_whether_there_is_more() {
    let mut pair = Pair::new(ROOMY);
    for n in 0..300 {
        pair.join(&[0], n);
    }
    for n in (0..300).step_by(7) {
        pair.commit(1, n, What::Send(0));
    }
    pair.follow();
    pair.load(&users(&[0]));
    for (unread_only, limit) in [(true, 10), (false, 50), (true, 1_000)] {
        let mut query = DialogsOfUser {
            tenant: tenant(0),
            user: user(0),
            unread_only,
            after: None,
            limit,
        };
        loop {
            let page = pair.model.dialogs_of_user(&query).unwrap();
            assert_eq!(page, pair.latest().page(&query));
            query.after = page.dialogs.last().map(|last| last.dialog.clone());
            if !page.more {
                break;
            }
        }
    }
}

#[test]
fn what_is_held_is_counted() {
    let mut pair = Pair::new(ROOMY);
    assert_eq!(pair.model.held(), MemoryUse::default());
    pair.join(&[0, 1], 0);
    pair.load(&users(&[0, 1]));
    let held = pair.model.held();
    assert_eq!((held.users, held.dialogs, held.evictions), (2, 1, 0));
    assert_eq!(held.bytes, pair.model.bytes());
    pair.model.forget_tenant(&tenant(0));
    assert!(pair.model.is_empty());
}
