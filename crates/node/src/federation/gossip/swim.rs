//! Who is there, as this node sees it, without a socket or a clock: messages and the time come in,
//! messages to be sent go out. The protocol, SWIM with suspicion, is a library's (`foca`); what is
//! here is its timers, its limits, and how a fleet is joined and found again after a partition.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut as _;
use foca::{
    Codec as _, Config, Foca, NoCustomBroadcast, Notification, PeriodicParams, Runtime, Timer,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::super::member::{All, Member};
use super::super::question::Id;
use super::wire::{Identity, MESSAGE_MAX, Wire, WireError};

/// Members that are kept, the dead that are remembered included. What else is told of is left out.
pub(super) const MEMBERS_MAX: usize = 4096;

/// How often a node asks another whether it lives, and how long the answer may take before others
/// are asked to ask.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
const PROBE_ANSWER_MAX: Duration = Duration::from_millis(400);

/// How long who doesn't answer is suspected before it is taken off the list: time to say that it
/// lives. With two rounds of probes before and the news after, a dead one is gone within 15 s.
const SUSPICION: Duration = Duration::from_secs(6);

/// How long the dead are remembered, so that old news don't bring them back, and asked for.
const MEMORY: Duration = Duration::from_secs(3600);

/// News are told to so many others this often, until each has been told so many times: to a
/// thousand within a second or two.
const NEWS_PERIOD: Duration = Duration::from_millis(200);
const NEWS_TOLD: usize = 3;
const NEWS_TIMES: u8 = 12;

/// Bytes of messages a second beyond which news wait, and how many may be saved up. Questions and
/// answers about who lives never wait: they are few.
const BYTES_PER_SECOND: f64 = 4000.0;
const BYTES_SAVED: f64 = 16_000.0;

/// How often the dead are asked whether they are back: how long two halves of a fleet that can talk
/// again stay apart.
const REVIVAL_PERIOD: Duration = Duration::from_secs(3);

/// How often another is asked whom it knows: by who has just joined, as long as it learns of somebody
/// now and then; and for good.
const LEARNING_PERIOD: Duration = Duration::from_millis(250);
const LEARNED: Duration = Duration::from_secs(2);
const REVIEW_PERIOD: Duration = Duration::from_secs(10);

/// Ways that are tried at once by who knows nobody that lives.
const LONELY_TRIES: usize = 3;

/// A message, and for whom.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) to: Arc<Member>,
    pub(super) message: Vec<u8>,
}

/// See the module.
pub(super) struct Swim {
    foca: Foca<Identity, Wire, SmallRng, NoCustomBroadcast>,
    reader: Wire,
    random: SmallRng,
    outbox: Outbox,
    timers: BTreeMap<(Duration, u64), Timer<Identity>>,
    timers_set: u64,
    /// Digests of the paths of those that are kept.
    known: BTreeSet<Id>,
    room: Room,
    /// When another is asked for whom it knows.
    review: Duration,
    /// When somebody was learned of who wasn't known before; `None` if that no longer matters.
    learned: Option<Duration>,
    /// How often it was declared dead, and is back under another generation.
    revivals: u64,
}

impl Swim {
    /// Of a node that nobody knows yet. Of two with one path, the larger generation counts.
    pub(super) fn new(own: Arc<Member>, generation: u64, seed: u64) -> Self {
        let own = Identity::new(own, generation);
        let wire = |own: &Identity| Wire { own: own.id };
        let random = SmallRng::seed_from_u64(seed);
        Self {
            reader: wire(&own),
            foca: Foca::new(own.clone(), config(), random.clone(), wire(&own)),
            random,
            outbox: Outbox {
                is_news: true,
                ..Outbox::default()
            },
            timers: BTreeMap::new(),
            timers_set: 0,
            known: BTreeSet::new(),
            room: Room::default(),
            review: Duration::ZERO,
            learned: None,
            revivals: 0,
        }
    }

    /// What asks whoever gets it for whom it knows, and lets it know of this node.
    pub(super) fn announcement(&mut self) -> Vec<u8> {
        let mut written = Outbox::default();
        // Nothing that is told of oneself is too long for a message.
        let _ = self.foca.announce(Identity::anyone(), &mut written);
        let message = written.sent.pop();
        message.map(|(_, message)| message).unwrap_or_default()
    }

    /// Takes a message. Whose it is, is in it; an error says that it is none.
    pub(super) fn receive(&mut self, message: &[u8], now: Duration) -> Result<(), foca::Error> {
        let Ok(message) = self.admit(message) else {
            return Err(foca::Error::MalformedPacket);
        };
        let Some(message) = message else {
            return Ok(());
        };
        let taken = self.foca.handle_data(&message, &mut self.outbox);
        self.settle(now);
        taken
    }

    /// Does what is due. An error says that something was not done, which is made up for later.
    pub(super) fn tick(&mut self, now: Duration) -> Result<(), foca::Error> {
        let mut result = Ok(());
        while let Some(entry) = self.timers.first_entry() {
            let ((due, _), timer) = (*entry.key(), entry.get());
            if due > now {
                break;
            }
            if matches!(timer, Timer::PeriodicGossip(_)) && !self.room.is_open(now) {
                let timer = entry.remove();
                self.set(now + NEWS_PERIOD, timer);
                continue;
            }
            let timer = entry.remove();
            let forgets = matches!(timer, Timer::RemoveDown(_));
            result = result.and(self.foca.handle_timer(timer, &mut self.outbox));
            self.settle(now);
            if forgets {
                let kept = self.foca.iter_membership_state();
                self.known = kept.map(|it| it.id().id).collect();
            }
        }
        if now >= self.review {
            result = result.and(self.look_around(now));
        }
        result
    }

    /// When [`Swim::tick`] has something to do.
    pub(super) fn due(&self) -> Duration {
        let first = self.timers.first_key_value();
        first.map_or(self.review, |((due, _), _)| self.review.min(*due))
    }

    /// Says good-bye. Nothing is to be done with it afterwards but to send what it has to say.
    pub(super) fn leave(&mut self, now: Duration) -> Result<(), foca::Error> {
        let left = self.foca.leave_cluster(&mut self.outbox);
        self.settle(now);
        left
    }

    /// What is to be sent.
    pub(super) fn take_sent(&mut self) -> Vec<Sent> {
        let sent = std::mem::take(&mut self.outbox.sent).into_iter();
        sent.filter_map(|(to, message)| {
            Some(Sent {
                to: to.member?,
                message,
            })
        })
        .collect()
    }

    /// Who is there, this node included; `None` if nobody has come or gone since the last time.
    pub(super) fn take_members(&mut self) -> Option<All> {
        if !std::mem::take(&mut self.outbox.is_news) {
            return None;
        }
        let others = self.foca.iter_members().map(foca::Member::id);
        let members = others.chain([self.foca.identity()]);
        let members = members.filter_map(|it| it.member.as_ref());
        Some(members.map(|it| (it.path(), Arc::clone(it))).collect())
    }

    /// How many others are known that live, or are only suspected not to.
    pub(super) fn others(&self) -> usize {
        self.foca.num_members()
    }

    /// Whether there are none.
    pub(super) fn is_lonely(&self) -> bool {
        self.others() == 0
    }

    /// Whether somebody who lives is said to be there.
    pub(super) fn knows(&self, host: &str, port: u16) -> bool {
        let mut members = self.foca.iter_members();
        members.any(|it| {
            let member = it.id().member.as_ref();
            member.is_some_and(|it| it.udp_port == port && it.host == host)
        })
    }

    /// How often it was declared dead and came back.
    pub(super) fn revivals(&self) -> u64 {
        self.revivals
    }

    /// The message, without what there is no room for; `None` if there is none for its sender.
    fn admit<'a>(
        &mut self,
        message: &'a [u8],
    ) -> Result<Option<std::borrow::Cow<'a, [u8]>>, WireError> {
        let mut rest = message;
        let header = self.reader.decode_header(&mut rest)?;
        let own = self.foca.identity().id;
        let head = message.len() - rest.len();
        let mut added = BTreeSet::new();
        let known = &self.known;
        let mut is_let_in = |id: Id| {
            let is_known = id == own || known.contains(&id) || added.contains(&id);
            let has_room = known.len() + added.len() < MEMBERS_MAX;
            is_known || (has_room && added.insert(id))
        };
        if !is_let_in(header.src.id) {
            return Ok(None);
        }
        let mut kept = Vec::new();
        let mut left_out = 0;
        let count = match rest.len() {
            0 | 1 => 0,
            _ => bytes::Buf::get_u16(&mut rest),
        };
        for _ in 0..count {
            let before = rest;
            let update = self.reader.decode_member(&mut rest)?;
            match is_let_in(update.id().id) {
                true => kept.push(&before[..before.len() - rest.len()]),
                false => left_out += 1,
            }
        }
        // Not before it is known to be a message, and only if it is for this node: of others, the
        // library takes nothing.
        let is_for_this = header.dst.id == own;
        if is_for_this {
            self.known.extend(added);
        }
        if left_out == 0 || !is_for_this {
            return Ok(Some(message.into()));
        }
        let mut shorter = message[..head].to_vec();
        shorter.put_u16(count - left_out);
        kept.into_iter()
            .for_each(|update| shorter.put_slice(update));
        Ok(Some(shorter.into()))
    }

    /// Asks somebody whom it knows; who knows nobody that lives, the dead.
    fn look_around(&mut self, now: Duration) -> Result<(), foca::Error> {
        let is_learning = self.learned.is_some_and(|it| now < it + LEARNED);
        if !is_learning {
            self.learned = None;
        }
        self.review = now
            + match is_learning {
                true => LEARNING_PERIOD,
                false if self.is_lonely() => REVIVAL_PERIOD,
                false => REVIEW_PERIOD,
            };
        let asked: Vec<Identity> = match self.is_lonely() {
            true => {
                let dead: Vec<_> = self.foca.iter_membership_state().collect();
                let any = |random: &mut SmallRng| dead[random.random_range(0..dead.len())].id();
                let tries = LONELY_TRIES.min(dead.len());
                (0..tries).map(|_| any(&mut self.random).clone()).collect()
            }
            false => {
                let number = self.random.random_range(0..self.foca.num_members());
                let chosen = self.foca.iter_members().nth(number);
                chosen.map(|it| it.id().clone()).into_iter().collect()
            }
        };
        let mut result = Ok(());
        for identity in asked {
            result = result.and(self.foca.announce(identity, &mut self.outbox));
        }
        self.settle(now);
        result
    }

    /// Notes what the library wants to have done.
    fn settle(&mut self, now: Duration) {
        for (after, timer) in std::mem::take(&mut self.outbox.timers) {
            self.set(now + after, timer);
        }
        self.room.spend(std::mem::take(&mut self.outbox.bytes), now);
        if std::mem::take(&mut self.outbox.is_joined) {
            self.learned = Some(now);
            self.review = now;
        } else if std::mem::take(&mut self.outbox.has_learned) && self.learned.is_some() {
            self.learned = Some(now);
        }
        self.revivals += std::mem::take(&mut self.outbox.revivals);
    }

    fn set(&mut self, due: Duration, timer: Timer<Identity>) {
        self.timers_set += 1;
        self.timers.insert((due, self.timers_set), timer);
    }
}

fn config() -> Config {
    let periodic = |frequency, members| {
        Some(PeriodicParams {
            frequency,
            num_members: count(members),
        })
    };
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_ANSWER_MAX,
        max_transmissions: NonZeroU8::new(NEWS_TIMES).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: SUSPICION,
        remove_down_after: Some(MEMORY),
        max_packet_size: count(MESSAGE_MAX),
        notify_down_members: true,
        periodic_announce_to_down_members: periodic(REVIVAL_PERIOD, 2),
        periodic_gossip: periodic(NEWS_PERIOD, NEWS_TOLD),
        ..Config::simple()
    }
}

fn count(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN)
}

/// What the library wants to have done.
#[derive(Debug, Default)]
struct Outbox {
    sent: Vec<(Identity, Vec<u8>)>,
    timers: Vec<(Duration, Timer<Identity>)>,
    bytes: usize,
    is_news: bool,
    is_joined: bool,
    has_learned: bool,
    revivals: u64,
}

impl Runtime<Identity> for Outbox {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::MemberUp(_) => (self.is_news, self.has_learned) = (true, true),
            Notification::MemberDown(_) | Notification::Rename(..) => self.is_news = true,
            Notification::Active => self.is_joined = true,
            Notification::Rejoin(_) => self.revivals += 1,
            Notification::Idle | Notification::Defunct => {}
        }
    }

    fn send_to(&mut self, to: Identity, message: &[u8]) {
        self.bytes += message.len();
        self.sent.push((to, message.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.timers.push((after, event));
    }
}

/// Bytes that may be sent.
#[derive(Debug)]
struct Room {
    bytes: f64,
    since: Duration,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            bytes: BYTES_SAVED,
            since: Duration::ZERO,
        }
    }
}

impl Room {
    fn is_open(&mut self, now: Duration) -> bool {
        self.spend(0, now);
        self.bytes > 0.0
    }

    fn spend(&mut self, bytes: usize, now: Duration) {
        let passed = now.saturating_sub(self.since).as_secs_f64();
        self.since = self.since.max(now);
        self.bytes = (self.bytes + passed * BYTES_PER_SECOND).min(BYTES_SAVED) - bytes as f64;
    }
}
