//! Whatever happens in whatever order: what the model answers is what the store
//! would have answered at the model's cut.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;

use super::store::{Happens, Store, Untold, What, dialog, tenant, user};
use crate::event::{TenantId, UserId};
use crate::serving::model::{LoadEnd, LoadKeys, LoadTicket, Model};
use crate::store::read::{DialogOrder, DialogsInOrder, DialogsOfUser};

const TENANTS: usize = 2;
const USERS: usize = 4;
const DIALOGS: usize = 6;

#[derive(Debug, Clone)]
enum Step {
    Commit(usize, i64, Vec<Happens>, Untold),
    Advance(Index, Records),
    Begin(usize, Vec<usize>, Vec<usize>),
    /// Which load, and the state that it has read.
    End(Index, Index, Read),
    Abandon(Index),
    Reset(Index),
    Forget(usize),
}

#[derive(Debug, Clone, Copy)]
enum Records {
    Backwards,
    /// With all that are covered already.
    All,
    OneMissing(Index),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Read {
    /// Since the load began; the model moves on as far before it ends.
    InStep,
    /// Any state.
    Whenever,
}

fn what() -> impl Strategy<Value = What> {
    let sender_type = || prop_oneof![8 => 0_usize..2, 1 => 2_usize..6];
    prop_oneof![
        6 => sender_type().prop_map(What::Send),
        2 => sender_type().prop_map(What::Unsend),
        4 => Just(What::Join),
        1 => Just(What::Leave),
        2 => Just(What::ReadAll),
        2 => (sender_type(), prop_oneof![-1_i64..3, Just(3_000_000_000)])
            .prop_map(|(sender_type, count)| What::Read(sender_type, count)),
        1 => Just(What::DeleteDialog),
        1 => Just(What::Topic),
    ]
}

fn happens() -> impl Strategy<Value = Happens> {
    (0..TENANTS, 0..USERS, 0..DIALOGS, what()).prop_map(|(tenant, user, dialog, what)| Happens {
        tenant,
        user,
        dialog,
        what,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let untold = prop_oneof![
        15 => Just(Untold::Nothing),
        1 => (0..TENANTS).prop_map(Untold::Of),
    ];
    let records = prop_oneof![
        8 => Just(Records::Backwards),
        8 => Just(Records::All),
        1 => any::<Index>().prop_map(Records::OneMissing),
    ];
    let read = prop_oneof![4 => Just(Read::InStep), 1 => Just(Read::Whenever)];
    let some = |n| prop::collection::vec(0..n, 0..3);
    prop_oneof![
        10 => (0_usize..3, 1_i64..100, prop::collection::vec(happens(), 0..6), untold)
            .prop_map(|(writer, at, happens, untold)| Step::Commit(writer, at, happens, untold)),
        8 => (any::<Index>(), records).prop_map(|(to, records)| Step::Advance(to, records)),
        4 => (0..TENANTS, some(USERS), some(DIALOGS))
            .prop_map(|(tenant, users, dialogs)| Step::Begin(tenant, users, dialogs)),
        4 => (any::<Index>(), any::<Index>(), read)
            .prop_map(|(load, at, read)| Step::End(load, at, read)),
        1 => any::<Index>().prop_map(Step::Abandon),
        1 => any::<Index>().prop_map(Step::Reset),
        1 => (0..TENANTS).prop_map(Step::Forget),
    ]
}

struct Reading {
    load: LoadTicket,
    tenant: TenantId,
    wanted: LoadKeys,
    began_at: usize,
    void: bool,
}

/// The model beside what it should know.
struct Run {
    store: Store,
    model: Model,
    /// The state that the model is in.
    at: usize,
    loads: Vec<Reading>,
    /// Whether there is room for everything.
    roomy: bool,
    /// With room for everything: who must be held.
    held: BTreeSet<(TenantId, UserId)>,
}

impl Run {
    fn new(most_bytes: Option<usize>) -> Self {
        Self {
            store: Store::new(3),
            model: Model::new(most_bytes.unwrap_or(1 << 30)),
            at: 0,
            loads: Vec::new(),
            roomy: most_bytes.is_none(),
            held: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Commit(writer, at, happens, untold) => {
                self.store.commit(writer, at, &happens, untold);
            }
            Step::Advance(to, records) => {
                let to = self.at + to.index(self.store.latest() - self.at + 1);
                self.advance(to, records);
            }
            Step::Begin(n, users, dialogs) => {
                let wanted = LoadKeys {
                    users: users.into_iter().map(user).collect(),
                    dialogs: dialogs.into_iter().map(dialog).collect(),
                };
                self.loads.push(Reading {
                    load: self.model.begin_load(&tenant(n), wanted.clone()),
                    tenant: tenant(n),
                    wanted,
                    began_at: self.at,
                    void: false,
                });
            }
            Step::End(load, at, read) if !self.loads.is_empty() => {
                let reading = self.loads.swap_remove(load.index(self.loads.len()));
                self.end(reading, at, read);
            }
            Step::Abandon(load) if !self.loads.is_empty() => {
                let reading = self.loads.swap_remove(load.index(self.loads.len()));
                self.model.abandon_load(reading.load);
            }
            Step::End(..) | Step::Abandon(_) => {}
            Step::Reset(to) => {
                self.at = to.index(self.store.latest() + 1);
                self.model.reset(self.store.state(self.at).cut.clone());
                self.forget_everything();
            }
            Step::Forget(n) => {
                self.model.forget_tenant(&tenant(n));
                self.forget(&tenant(n));
            }
        }
    }

    fn forget_everything(&mut self) {
        (0..TENANTS).for_each(|n| self.forget(&tenant(n)));
    }

    fn forget(&mut self, tenant: &TenantId) {
        self.held.retain(|(of, _)| of != tenant);
        let loads = self.loads.iter_mut();
        loads
            .filter(|reading| reading.tenant == *tenant)
            .for_each(|reading| reading.void = true);
    }

    fn advance(&mut self, to: usize, records: Records) {
        let mut given = self.store.between(self.at, to);
        let mut complete = true;
        match records {
            Records::Backwards => given.reverse(),
            Records::All => given = self.store.records.clone(),
            Records::OneMissing(_) if given.is_empty() || self.model.is_empty() => {}
            Records::OneMissing(which) => {
                given.swap_remove(which.index(given.len()));
                complete = false;
            }
        }
        let cut = &self.store.state(to).cut;
        assert_eq!(self.model.advance(cut, given), complete);
        for n in 0..TENANTS {
            if !complete || self.store.untold(&tenant(n), self.at, to) {
                self.forget(&tenant(n));
            }
        }
        self.at = to;
    }

    fn end(&mut self, reading: Reading, at: Index, read: Read) {
        let latest = self.store.latest();
        let state = match read {
            // A reset may have set the model back.
            Read::InStep if reading.began_at <= latest => {
                reading.began_at + at.index(latest - reading.began_at + 1)
            }
            _ => at.index(latest + 1),
        };
        let mut void = reading.void;
        if read == Read::InStep && state > self.at {
            void |= self.store.untold(&reading.tenant, self.at, state);
            self.advance(state, Records::All);
        }
        let (cut, loaded) = {
            let state = self.store.state(state);
            (
                state.cut.clone(),
                state.read(&reading.tenant, &reading.wanted),
            )
        };
        let ended = self.model.end_load(reading.load, &cut, loaded);
        let out_of_step = state > self.at || state < reading.began_at;
        match ended {
            LoadEnd::Void => assert!(void || !self.roomy, "not void"),
            _ if void => panic!("a void load ended with {ended:?}"),
            LoadEnd::OutOfStep => assert!(out_of_step, "in step"),
            _ if out_of_step => panic!("a load out of step ended with {ended:?}"),
            LoadEnd::Without(_) => assert!(!self.roomy, "there is room"),
            LoadEnd::Complete => {
                for user in &reading.wanted.users {
                    assert!(self.model.user(&reading.tenant, user).is_some(), "not held");
                    if self.roomy {
                        self.held.insert((reading.tenant.clone(), user.clone()));
                    }
                }
                for dialog in &reading.wanted.dialogs {
                    assert!(
                        self.model.dialog(&reading.tenant, dialog).is_some(),
                        "not held"
                    );
                }
            }
        }
    }

    /// All that is held is right, asked from some user on.
    fn check(&mut self, first: usize) {
        let most = self.model.most_bytes;
        assert!(
            self.model.bytes() <= most,
            "{} of {most}",
            self.model.bytes()
        );
        self.model.check();
        assert_eq!(*self.model.cut(), self.store.state(self.at).cut);
        for n in 0..TENANTS * USERS {
            let n = (n + first) % (TENANTS * USERS);
            let (tenant, user) = (tenant(n % TENANTS), user(n / TENANTS));
            if self.check_user(&tenant, &user) {
                self.check_in_order(&tenant, &user, 1 + first % 3);
            }
        }
        for n in 0..TENANTS * DIALOGS {
            let (tenant, dialog) = (tenant(n % TENANTS), dialog(n / TENANTS));
            let expected = self.store.state(self.at).dialog(&tenant, &dialog);
            if let Some(stats) = self.model.dialog(&tenant, &dialog) {
                assert_eq!(stats, expected);
            }
        }
    }

    /// Whether the user is held.
    fn check_user(&mut self, tenant: &TenantId, user: &UserId) -> bool {
        let state = self.store.state(self.at);
        let Some(mut stats) = self.model.user(tenant, user) else {
            assert!(
                !self.held.contains(&(tenant.clone(), user.clone())),
                "let go"
            );
            return false;
        };
        let expected = state.user(tenant, user);
        // Clocks may go back, the latest time of a user does not.
        assert!(stats.updated_at >= expected.updated_at);
        let records = self.store.records[..self.at].iter();
        assert!(stats.updated_at <= records.map(|(_, _, record)| record.at).max());
        stats.updated_at = expected.updated_at;
        assert_eq!(stats, expected);
        for n in 0..DIALOGS {
            if let Some(stats) = self.model.user_in_dialog(tenant, user, &dialog(n)) {
                assert_eq!(stats, state.in_dialog(tenant, user, &dialog(n)));
            }
            for (limit, unread_only) in [(0, true), (1, false), (2, true), (9, true), (9, false)] {
                let query = DialogsOfUser {
                    tenant: tenant.clone(),
                    user: user.clone(),
                    unread_only,
                    after: n.checked_sub(1).map(dialog),
                    limit,
                };
                let page = self.model.dialogs_of_user(&query).unwrap();
                assert_eq!(page, state.page(&query));
            }
        }
        true
    }
    /// Page by page.
    fn check_in_order(&mut self, tenant: &TenantId, user: &UserId, limit: usize) {
        for (order, unread_only) in [
            (DialogOrder::LastMessage, false),
            (DialogOrder::UnreadFirst, false),
            (DialogOrder::UnreadFirst, true),
        ] {
            let mut query = DialogsInOrder {
                tenant: tenant.clone(),
                user: user.clone(),
                order,
                unread_only,
                after: None,
                limit,
            };
            let mut all = Vec::new();
            loop {
                let page = self.model.dialogs_in_order(&query).unwrap();
                assert!(page.dialogs.len() <= limit);
                all.extend(page.dialogs);
                match page.next {
                    Some(next) => query.after = Some(next),
                    None => break,
                }
            }
            assert_eq!(all, self.store.state(self.at).in_order(&query));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    /// With room for everything, and with hardly any.
    #[test]
    fn what_is_answered_is_what_the_store_has_at_the_cut(
        most_bytes in prop_oneof![Just(None), (1_000_usize..12_000).prop_map(Some)],
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut run = Run::new(most_bytes);
        for (n, step) in steps.into_iter().enumerate() {
            run.step(step);
            run.check(n);
        }
    }
}
