//! Whatever happens, and whatever is forgotten: once everything is given, each
//! client knows how everybody stands whom it watches.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;
use proptest::sample::Index;
use std::time::Duration;
use tokio::time::Instant;

use super::hub::{Hub, StreamId};
use super::stream::{Reached, fingerprint};
use super::{Subject, Update};
use crate::event::{DialogId, TenantId, UserId};
use crate::serving::model::tests::store::{Happens, Store, Untold, What, dialog, tenant, user};
use crate::serving::model::{LoadKeys, LoadedRows, Model};
use crate::store::read::{DialogStats, DialogsOfUser, UserDialogStats, UserStats};
use crate::store::rebuild::fence::WriterId;
use crate::telemetry::metrics::ServingMetrics;

const TENANTS: usize = 2;
const USERS: usize = 3;
const DIALOGS: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    Commit(usize, Vec<Happens>, Untold),
    /// Memory moves on, with all records or without one.
    Advance(Option<Index>),
    /// Everything is forgotten.
    Reset,
    Watch(usize, Vec<usize>, Vec<usize>),
    Change(Index, Vec<usize>, Vec<usize>),
    /// A client's wishes are looked at, and loaded.
    Load(Index),
    Give(Index),
    /// A client comes back with its latest token.
    Resume(Index),
    Close(Index),
}

fn happens() -> impl Strategy<Value = Happens> {
    let what = prop_oneof![
        6 => (0_usize..2).prop_map(What::Send),
        2 => (0_usize..2).prop_map(What::Unsend),
        4 => Just(What::Join),
        1 => Just(What::Leave),
        3 => Just(What::ReadAll),
        1 => Just(What::DeleteDialog),
        1 => Just(What::Topic),
    ];
    (0..TENANTS, 0..USERS, 0..DIALOGS, what).prop_map(|(tenant, user, dialog, what)| Happens {
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
    let missing = prop_oneof![12 => Just(None), 1 => any::<Index>().prop_map(Some)];
    let some = |n| prop::collection::vec(0..n, 0..3);
    prop_oneof![
        10 => (0_usize..2, prop::collection::vec(happens(), 0..5), untold)
            .prop_map(|(writer, happens, untold)| Step::Commit(writer, happens, untold)),
        6 => missing.prop_map(Step::Advance),
        1 => Just(Step::Reset),
        2 => (0..TENANTS, some(USERS), some(DIALOGS))
            .prop_map(|(tenant, users, dialogs)| Step::Watch(tenant, users, dialogs)),
        2 => (any::<Index>(), some(USERS), some(USERS))
            .prop_map(|(client, add, remove)| Step::Change(client, add, remove)),
        6 => any::<Index>().prop_map(Step::Load),
        8 => any::<Index>().prop_map(Step::Give),
        2 => any::<Index>().prop_map(Step::Resume),
        1 => any::<Index>().prop_map(Step::Close),
    ]
}

/// What a client knows by what it was given.
struct Client {
    stream: StreamId,
    tenant: TenantId,
    watched: Vec<Subject>,
    /// Up to where it was given everything.
    since: Option<Reached>,
    users: BTreeMap<UserId, (UserStats, BTreeMap<DialogId, UserDialogStats>)>,
    dialogs: BTreeMap<DialogId, DialogStats>,
}

struct Run {
    store: Store,
    model: Model,
    hub: Hub,
    /// The state that the model is in.
    at: usize,
    clients: Vec<Client>,
    now: i64,
}

/// Without what changes with what others do.
fn of_user(stats: &UserStats) -> UserStats {
    UserStats {
        version: 0,
        updated_at: None,
        ..stats.clone()
    }
}

fn of_pair(stats: &UserDialogStats) -> UserDialogStats {
    UserDialogStats {
        version: 0,
        updated_at: None,
        ..stats.clone()
    }
}

fn of_dialog(stats: &DialogStats) -> DialogStats {
    DialogStats {
        version: 0,
        updated_at: None,
        ..stats.clone()
    }
}

impl Run {
    /// Everybody is a member, and is watched.
    fn new() -> Self {
        let mut run = Self::empty();
        for of in 0..TENANTS {
            let all = (0..USERS).flat_map(|user| (0..DIALOGS).map(move |dialog| (user, dialog)));
            let joins = all.map(|(user, dialog)| Happens {
                tenant: of,
                user,
                dialog,
                what: What::Join,
            });
            let joins: Vec<Happens> = joins.collect();
            run.take(Step::Commit(0, joins, Untold::Nothing));
            let users: Vec<usize> = (0..USERS).collect();
            let dialogs: Vec<usize> = (0..DIALOGS).collect();
            run.watch(of, &users, &dialogs);
            run.load_all(of);
        }
        run
    }

    fn empty() -> Self {
        Self {
            store: Store::new(2),
            model: Model::new(1 << 30),
            hub: Hub::new(ServingMetrics::default().watch),
            at: 0,
            clients: Vec::new(),
            now: 0,
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Commit(writer, happens, untold) => {
                self.now += 1;
                self.store.commit(writer, self.now, &happens, untold);
            }
            Step::Advance(missing) => self.advance(missing),
            Step::Reset => {
                let cut = self.store.state(self.at).cut.clone();
                self.model.reset(cut);
            }
            Step::Watch(of, users, dialogs) => self.watch(of, &users, &dialogs),
            Step::Change(client, add, remove) => self.change(client, &add, &remove),
            Step::Load(client) => {
                if !self.clients.is_empty() {
                    self.load(client.index(self.clients.len()));
                }
            }
            Step::Give(client) => {
                if !self.clients.is_empty() {
                    self.give(client.index(self.clients.len()));
                }
            }
            Step::Resume(client) => {
                if !self.clients.is_empty() {
                    self.resume(client.index(self.clients.len()));
                }
            }
            Step::Close(client) => {
                if !self.clients.is_empty() {
                    let client = self.clients.remove(client.index(self.clients.len()));
                    self.follow();
                    self.hub.close(client.stream, &mut self.model);
                }
            }
        }
        self.follow();
        self.model.check();
    }

    fn follow(&mut self) {
        self.hub.follow(&mut self.model, Instant::now());
    }

    fn advance(&mut self, missing: Option<Index>) {
        let to = self.store.latest();
        let mut records = self.store.between(self.at, to);
        if let Some(missing) = missing
            && !records.is_empty()
        {
            records.remove(missing.index(records.len()));
        }
        let cut = self.store.state(to).cut.clone();
        self.model.advance(&cut, records);
        self.at = to;
        self.follow();
    }

    fn watch(&mut self, of: usize, users: &[usize], dialogs: &[usize]) {
        let (stream, _) = self.hub.open(tenant(of), Duration::ZERO, false);
        let users = users.iter().map(|n| Subject::User(user(*n)));
        let dialogs = dialogs.iter().map(|n| Subject::Dialog(dialog(*n)));
        let watched: Vec<Subject> = users.chain(dialogs).collect();
        self.follow();
        let change = (watched.clone(), &[][..]);
        assert!(
            self.hub
                .change(stream, change, 100, &mut self.model)
                .is_some()
        );
        self.clients.push(Client {
            stream,
            tenant: tenant(of),
            watched,
            since: None,
            users: BTreeMap::new(),
            dialogs: BTreeMap::new(),
        });
    }

    fn change(&mut self, client: Index, add: &[usize], remove: &[usize]) {
        if self.clients.is_empty() {
            return;
        }
        let index = client.index(self.clients.len());
        let subjects = |users: &[usize]| -> Vec<Subject> {
            users.iter().map(|n| Subject::User(user(*n))).collect()
        };
        self.follow();
        let client = &mut self.clients[index];
        let (add, remove) = (subjects(add), subjects(remove));
        client.watched.retain(|subject| !remove.contains(subject));
        client.watched.extend(add.clone());
        let distinct: BTreeSet<_> = client.watched.iter().map(|s| format!("{s:?}")).collect();
        let change = (add, &remove[..]);
        let changed = self.hub.change(client.stream, change, 100, &mut self.model);
        assert_eq!(changed.unwrap().1, distinct.len());
        let change = (client.watched.clone(), &[][..]);
        let most = distinct.len().saturating_sub(1);
        // One more than it may: as many as there are, and nothing else is counted.
        let refused = self
            .hub
            .change(client.stream, change, most, &mut self.model);
        assert_eq!(refused.is_none(), !distinct.is_empty());
    }

    /// A client comes back, perhaps to another replica, with what it knows.
    fn resume(&mut self, index: usize) {
        self.follow();
        let client = &mut self.clients[index];
        self.hub.close(client.stream, &mut self.model);
        let tenant = client.tenant.clone();
        let (stream, _) = self.hub.open(tenant.clone(), Duration::ZERO, true);
        client.stream = stream;
        let change = (client.watched.clone(), &[][..]);
        let since = client.since.clone();
        let distinct: HashSet<_> = client.watched.iter().collect();
        let set = fingerprint(distinct);
        self.hub.change(stream, change, 100, &mut self.model);
        self.load_all(index);
        let cut = self.model.cut();
        let since = since.filter(|since| since.set == set && cut.covers(&since.cut));
        let told = since.map(|Reached { cut: since, .. }| {
            let after = |(writer, number): (WriterId, i64)| {
                (since.of(writer) + 1..=cut.of(writer)).contains(&number)
            };
            let records = self.store.records.iter();
            let records = records.filter(|(writer, number, _)| after((*writer, *number)));
            records.map(|(_, _, record)| &**record).collect::<Vec<_>>()
        });
        let told = told.filter(|told| told.iter().all(|record| !record.untold.contains(&tenant)));
        match told {
            Some(told) => {
                let touched = self.model.touched_by(told.into_iter());
                self.hub.resume(stream, &touched, &self.model);
            }
            None => self.hub.stream(stream).unwrap().not_resumed(Instant::now()),
        }
    }

    /// Loads whom a client wants, as of now.
    fn load(&mut self, index: usize) {
        self.advance(None);
        let stream = self.clients[index].stream;
        let pinning = self.hub.pin_wanted(stream, 2, &mut self.model).unwrap();
        let mut wanted = LoadKeys::default();
        for subject in pinning.missing {
            match subject {
                Subject::User(user) => wanted.users.push(user),
                Subject::Dialog(dialog) => wanted.dialogs.push(dialog),
            }
        }
        let tenant = self.clients[index].tenant.clone();
        let load = self.model.begin_load(&tenant, wanted.clone());
        let state = self.store.state(self.at);
        let loaded: LoadedRows = state.read(&tenant, &wanted);
        self.model.end_load(load, &state.cut, loaded);
        self.follow();
        self.hub.pin_wanted(stream, 2, &mut self.model).unwrap();
    }

    fn load_all(&mut self, index: usize) {
        // Two are loaded at a time.
        for _ in 0..=self.clients[index].watched.len() {
            self.load(index);
        }
    }

    fn give(&mut self, index: usize) {
        self.follow();
        let client = &mut self.clients[index];
        loop {
            let (given, reached) = self.hub.give(client.stream, &self.model);
            if let Some(reached) = reached {
                client.since = Some(reached);
            }
            if given.updates.is_empty() {
                break;
            }
            for update in given.updates {
                client.learn(update, &mut self.model);
            }
        }
        self.check(index);
    }

    /// Whoever is pinned stands as the client knows.
    fn check(&mut self, index: usize) {
        let client = &self.clients[index];
        let pins: Vec<_> = {
            let stream = self.hub.stream(client.stream).unwrap();
            let pins = stream.pins();
            pins.map(|(_, subject, pin)| (subject.clone(), pin))
                .collect()
        };
        for (subject, pin) in pins {
            assert!(client.watched.contains(&subject));
            match subject {
                Subject::Dialog(dialog) => {
                    let known = client.dialogs.get(&dialog).map(of_dialog);
                    assert_eq!(known, Some(of_dialog(&self.model.pinned_dialog(pin))));
                }
                Subject::User(user) => {
                    let (known, pairs) = &client.users[&user];
                    assert_eq!(of_user(known), of_user(&self.model.pinned_user(pin)));
                    let page = all_of(&mut self.model, &client.tenant, &user);
                    for pair in &page {
                        let known = pairs.get(&pair.dialog).map(of_pair);
                        assert_eq!(known, Some(of_pair(pair)));
                    }
                    let members = pairs.values().filter(|pair| pair.member);
                    assert_eq!(members.count(), page.len());
                }
            }
        }
    }
}

impl Client {
    fn learn(&mut self, update: Update, model: &mut Model) {
        match update {
            Update::Dialog(stats) => {
                let before = self.dialogs.insert(stats.dialog.clone(), stats.clone());
                assert!(before.is_none_or(|before| before.version <= stats.version));
            }
            Update::User {
                stats,
                dialogs,
                more,
            } => {
                let user = stats.user.clone();
                let known = self.users.entry(user.clone());
                let (before, pairs) = known.or_insert_with(|| (stats.clone(), BTreeMap::new()));
                assert!(before.version <= stats.version);
                *before = stats;
                if more {
                    // As somebody would list them now.
                    pairs.clear();
                    let page = all_of(model, &self.tenant, &user);
                    pairs.extend(page.into_iter().map(|pair| (pair.dialog.clone(), pair)));
                }
                let told = dialogs.into_iter();
                pairs.extend(told.map(|pair| (pair.dialog.clone(), pair)));
            }
        }
    }
}

fn all_of(model: &mut Model, tenant: &TenantId, user: &UserId) -> Vec<UserDialogStats> {
    let all = DialogsOfUser {
        tenant: tenant.clone(),
        user: user.clone(),
        unread_only: false,
        after: None,
        limit: 1_000,
    };
    model.dialogs_of_user(&all).unwrap().dialogs
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn who_was_given_everything_knows_how_everybody_stands(
        steps in prop::collection::vec(step(), 0..100)
    ) {
        let mut run = Run::new();
        for step in steps {
            run.take(step);
        }
        run.advance(None);
        for index in 0..run.clients.len() {
            run.load_all(index);
            run.give(index);
            let stream = run.clients[index].stream;
            assert!(run.hub.stream(stream).unwrap().is_whole());
        }
    }
}
