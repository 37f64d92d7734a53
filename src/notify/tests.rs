//! Who is told of what is gathered from records, against a model that keeps what
//! everybody was told: in the end that is how everybody stands.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::gather::{Due, GatheredChanges, MemberViews, Portion};
use crate::derive::state::{ByType, DialogKey};
use crate::event::{DialogId, Micros, SenderType, TenantId, UserId};
use crate::store::commit_log::{
    ConsumedChanged, DialogChanged, DialogNow, Facts, Record, ShareChanged,
};
use crate::store::read::Members;

const USERS: usize = 5;
const DIALOGS: usize = 3;
const LIMIT: i64 = 3;

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn dialog(number: usize) -> DialogId {
    DialogId::new(&format!("d{number}")).unwrap()
}

fn user(number: usize) -> UserId {
    UserId::new(&format!("u{number}")).unwrap()
}

/// What happens: to a dialog, by a user.
#[derive(Debug, Clone, Copy)]
enum Step {
    Join,
    Leave,
    Send,
    Delete,
    Read,
    Tell,
    /// What was told is forgotten by the one who tells, as when it is another one.
    HandOver,
}

fn steps() -> impl Strategy<Value = Vec<(Step, usize, usize)>> {
    let step = prop_oneof![
        3 => Just(Step::Join),
        1 => Just(Step::Leave),
        4 => Just(Step::Send),
        2 => Just(Step::Delete),
        3 => Just(Step::Read),
        4 => Just(Step::Tell),
        1 => Just(Step::HandOver),
    ];
    vec((step, 0..DIALOGS, 0..USERS), 1..60)
}

/// How a dialog stands.
#[derive(Debug, Clone, Default)]
struct Dialog {
    version: i64,
    messages: i64,
    /// What each member has consumed of them.
    members: BTreeMap<usize, i64>,
}

impl Dialog {
    fn unread(&self, user: usize) -> Option<i64> {
        let consumed = self.members.get(&user)?;
        Some(self.messages - consumed)
    }

    /// Makes a step, and tells what its record says.
    fn step(&mut self, step: Step, number: usize, by: usize) -> Record {
        self.version += 1;
        let (mut change, mut facts) = (0, None);
        match step {
            Step::Join => {
                self.members.insert(by, self.messages);
                facts = Some(Facts {
                    joined_at: Micros::new(1),
                    read_until: None,
                });
            }
            Step::Leave => {
                self.members.remove(&by);
                facts = Some(Facts::default());
            }
            Step::Send => {
                self.messages += 1;
                change = 1;
            }
            Step::Delete if self.messages > 0 => self.messages -= 1,
            Step::Read => change = self.unread(by).unwrap_or(0),
            Step::Delete | Step::Tell | Step::HandOver => {}
        }
        if let Some(consumed) = self.members.get_mut(&by) {
            *consumed += change;
        }
        let mut by_type = ByType::default();
        by_type.add(&SenderType::default(), change);
        let share = ShareChanged {
            user: user(by),
            version: 1,
            sent: i64::from(matches!(step, Step::Send)),
            consumed: ConsumedChanged::By(by_type),
            facts,
        };
        let has_share = !matches!(step, Step::Delete);
        self.record(number, has_share.then_some(share))
    }

    fn record(&self, number: usize, share: Option<ShareChanged>) -> Record {
        let mut sequence = ByType::default();
        sequence.add(&SenderType::default(), self.messages);
        Record {
            at: Micros::new(self.version).unwrap(),
            events: 1,
            dialogs: vec![DialogChanged {
                key: DialogKey {
                    tenant: tenant(),
                    dialog: dialog(number),
                },
                now: DialogNow {
                    version: self.version,
                    members: self.members.len() as i64,
                    sequence,
                    ..DialogNow::default()
                },
                shares: share.into_iter().collect(),
            }],
            untold: Vec::new(),
        }
    }
}

/// The chat, what everybody was told, and who tells.
struct World {
    dialogs: Vec<Dialog>,
    told: BTreeMap<(usize, usize), Option<i64>>,
    told_dialogs: BTreeMap<usize, i64>,
    views: MemberViews,
    waiting: Vec<Record>,
}

impl World {
    fn new() -> Self {
        Self {
            dialogs: vec![Dialog::default(); DIALOGS],
            told: BTreeMap::new(),
            told_dialogs: BTreeMap::new(),
            views: MemberViews::new(LIMIT as u32),
            waiting: Vec::new(),
        }
    }

    fn step(&mut self, (step, number, by): (Step, usize, usize)) {
        match step {
            // The first of them alone: others are of a later round.
            Step::Tell => self.tell(self.waiting.len().div_ceil(2)),
            Step::HandOver => self.views = MemberViews::new(LIMIT as u32),
            _ => {
                let record = self.dialogs[number].step(step, number, by);
                self.waiting.push(record);
            }
        }
    }

    fn tell(&mut self, records: usize) {
        let mut gathered = GatheredChanges::default();
        for record in self.waiting.drain(..records) {
            gathered.take(&record, &mut self.views);
        }
        for portion in gathered.portions(3) {
            self.tell_portion(&portion);
        }
        self.views.told(&gathered);
    }

    fn tell_portion(&mut self, portion: &Portion<'_>) {
        let mut members = Members::new();
        for dialogs in portion.to_all().values() {
            for id in dialogs {
                let of = &self.dialogs[place(id.as_str())];
                let users = of.members.keys().map(|user_of| user(*user_of));
                members.insert(id.clone(), users.collect());
            }
        }
        let due = portion.due(&BTreeMap::from([(tenant(), members)]));
        for due in due.values() {
            self.take(due);
        }
    }

    /// What is told is how everybody stands by then, and not when it happened.
    fn take(&mut self, due: &Due) {
        for (user, dialogs) in &due.users {
            let user = place(user.as_str());
            for id in dialogs {
                let number = place(id.as_str());
                let unread = self.dialogs[number].unread(user);
                self.told.insert((user, number), unread);
            }
        }
        for id in &due.dialogs {
            let number = place(id.as_str());
            self.told_dialogs
                .insert(number, self.dialogs[number].messages);
        }
    }

    /// Who was told last something else than is so.
    fn wrong(&self) -> BTreeSet<(usize, usize)> {
        let all = (0..USERS).flat_map(|user| (0..DIALOGS).map(move |number| (user, number)));
        let wrong = all.filter(|(user, number)| {
            let of = &self.dialogs[*number];
            let told = self.told.get(&(*user, *number)).copied().flatten();
            // Members of a large dialog know of it, and not of what is theirs.
            let is_large = of.members.len() as i64 > LIMIT;
            let is_told = self.told_dialogs.get(number) == Some(&of.messages);
            told != of.unread(*user) && !(is_large && is_told)
        });
        wrong.collect()
    }
}

fn place(id: &str) -> usize {
    id[1..].parse().unwrap()
}

proptest! {
    #[test]
    fn everybody_is_told_last_how_they_stand(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.tell(world.waiting.len());
        prop_assert_eq!(world.wrong(), BTreeSet::new());
    }
}

fn joined(members: usize) -> (Dialog, MemberViews) {
    let (mut of, mut views) = (Dialog::default(), MemberViews::new(LIMIT as u32));
    let mut gathered = GatheredChanges::default();
    for by in 0..members {
        gathered.take(&of.step(Step::Join, 0, by), &mut views);
    }
    views.told(&gathered);
    (of, views)
}

fn due_after(of: &mut Dialog, views: &mut MemberViews, step: Step, by: usize) -> (usize, usize) {
    let mut gathered = GatheredChanges::default();
    gathered.take(&of.step(step, 0, by), views);
    let users = of.members.keys().map(|number| user(*number));
    let members = Members::from([(dialog(0), users.collect())]);
    let portions = gathered.portions(1_000);
    let due = portions[0].due(&BTreeMap::from([(tenant(), members)]));
    views.told(&gathered);
    let due = &due[&tenant()];
    (due.users.len(), due.dialogs.len())
}

#[test]
fn a_message_is_for_all_members_and_a_read_for_one() {
    let (mut of, mut views) = joined(3);
    assert_eq!(due_after(&mut of, &mut views, Step::Send, 0), (3, 0));
    assert_eq!(due_after(&mut of, &mut views, Step::Read, 1), (1, 0));
    assert_eq!(due_after(&mut of, &mut views, Step::Join, 1), (1, 0));
}

#[test]
fn in_a_large_dialog_a_message_is_for_the_dialog_and_its_sender() {
    let (mut of, mut views) = joined(4);
    assert_eq!(due_after(&mut of, &mut views, Step::Send, 0), (1, 1));
    assert_eq!(due_after(&mut of, &mut views, Step::Read, 1), (1, 0));
}
