//! What the world looks like between two steps: sides, instances, jobs, and what is on the wire.
//!
//! Everything is small and `Copy`: millions of these are kept. What no later step can read is zeroed, so that states that
//! differ in nothing that matters are one state.

/// A side, by its place in the configured order. `A` has two votes.
pub type Side = usize;
pub const A: Side = 0;
pub const B: Side = 1;

/// An instance, by its place.
pub type Instance = usize;

/// A job: one operation at one instance.
pub type Job = usize;

/// Both sides, as a bit mask.
pub const BOTH: u8 = 0b11;

/// Jobs of the largest scenario: two operations and a retry of the first.
pub const JOBS: usize = 3;

pub fn bit(place: usize) -> u8 {
    1 << place
}

/// The first side of a set, in configured order.
pub fn leader(members: u8) -> Side {
    members.trailing_zeros() as Side
}

/// The other one of two sides, or of two instances.
pub fn other(place: usize) -> usize {
    1 - place
}

/// One membership. It follows the one with the number before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch {
    pub n: u8,
    pub members: u8,
}

/// The only row: the operations in effect, oldest first, as digits to base 3. An operation reads the row and appends
/// itself, so a lost update is a digit that is missing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Row(u8);

impl Row {
    pub fn with(self, op: usize) -> Row {
        Row(self.0.saturating_mul(3).saturating_add(op as u8 + 1))
    }

    pub fn ops(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let digit = rest % 3;
            rest /= 3;
            (digit > 0).then(|| digit as usize - 1)
        })
    }

    /// The same row with the operations exchanged.
    pub fn mirrored(self) -> Row {
        let (mut rest, mut place, mut mirrored) = (self.0, 1, 0);
        while rest > 0 {
            mirrored += place * (3 - rest % 3);
            place = place.saturating_mul(3);
            rest /= 3;
        }
        Row(mirrored)
    }

    pub fn times(self, op: usize) -> usize {
        self.ops().filter(|o| *o == op).count()
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ops: Vec<usize> = self.ops().collect();
        let names: Vec<String> = ops.iter().rev().map(|op| format!("op{op}")).collect();
        write!(f, "[{}]", names.join(" "))
    }
}

/// What a side knows of an operation: nothing, or in which epoch it was committed (that stands for lane and batch: an
/// operation cannot be committed by two batches of one epoch, its name is locked on every member), or its tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Name(u8);

impl Name {
    const TOMBSTONE: u8 = 0x80;

    pub fn applied(epoch: u8) -> Name {
        Name(epoch)
    }

    pub fn tombstone(epoch: u8) -> Name {
        Name(epoch | Name::TOMBSTONE)
    }

    pub fn is_known(self) -> bool {
        self.0 != 0
    }

    pub fn is_applied(self) -> bool {
        self.0 != 0 && self.0 & Name::TOMBSTONE == 0
    }

    pub fn is_tombstone(self) -> bool {
        self.0 & Name::TOMBSTONE != 0
    }
}

/// What a voter keeps of the vote about the child of `parent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Vote {
    pub parent: u8,
    pub promised: u8,
    /// Ballot and members it accepted; 0 is none.
    pub accepted: u8,
    pub members: u8,
}

/// A side: everything but `up` is on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SideState {
    pub up: bool,
    pub epoch: Epoch,
    /// The instance that brings this side up to date, plus one.
    pub token: u8,
    pub row: Row,
    pub ops: [Name; 2],
    /// Operations not known to be on the other side: open journal rows.
    pub open: u8,
    pub vote: Vote,
}

/// How far an instance is with a change of epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Stage {
    #[default]
    None,
    Promise,
    Accept,
    /// More than half have accepted: the child may be written.
    Granted,
}

/// A change of epoch that an instance is gathering votes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Candidate {
    pub stage: Stage,
    pub parent: u8,
    pub ballot: u8,
    pub members: u8,
    /// The highest ballot that a voter reported as accepted: its members are proposed again.
    pub best: u8,
    /// Voters that have granted this stage.
    pub granted: u8,
}

/// How far an instance is with a catch-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Catching {
    #[default]
    None,
    Fenced,
    /// A pass has copied what this snapshot of the leader showed (operations, as a mask).
    Passed {
        seen: u8,
    },
}

/// An instance: `view` and `vote` are its file, the rest is lost with the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceState {
    pub up: bool,
    pub view: Epoch,
    pub vote: Vote,
    pub candidate: Candidate,
    pub catching: Catching,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Not in this scenario.
    Absent,
    /// The client has not sent it yet.
    Waiting,
    /// To be tried (again).
    Run,
    /// The leader has done its part: row lock and name are held there.
    Led,
    /// Every follower has done its part and passed the guard.
    Followed,
    /// COMMIT is on the wire.
    Committing,
    /// The leader knows the name already; the other members are asked.
    Known,
    /// A side has a change of this row that another lacks: nothing is tried before they are brought together.
    Merge,
    /// The client has its answer; the sides are not told yet what may be settled.
    Acknowledged,
    /// Answered as applied, nothing left to do.
    Done,
    /// Answered as not applied.
    NotApplied,
    /// The instance died: the client does not know.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobState {
    pub phase: Phase,
    /// A COMMIT of it was sent and not every member answered.
    pub in_doubt: bool,
    /// Refused after a lost COMMIT: the name is to be taken by a tombstone.
    pub bury: bool,
    /// The epoch of the last attempt.
    pub epoch: u8,
    pub members: u8,
    /// Sides whose COMMIT is awaited, and sides that answered it.
    pub awaited: u8,
    pub answered: u8,
}

impl JobState {
    /// A job in a phase that remembers nothing.
    pub const fn of(phase: Phase) -> JobState {
        JobState {
            phase,
            in_doubt: false,
            bury: false,
            epoch: 0,
            members: 0,
            awaited: 0,
            answered: 0,
        }
    }

    pub fn is_final(&self) -> bool {
        use Phase::*;
        matches!(self.phase, Absent | Done | NotApplied | Unknown)
    }
}

/// A transaction of one job on one side. It holds the fence (shared), the row lock and the operation's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Tx {
    #[default]
    None,
    Open {
        row: Row,
        name: Name,
    },
    /// COMMIT is on the wire or being executed.
    Sent {
        row: Row,
        name: Name,
    },
}

/// The world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct World {
    pub sides: [SideState; 2],
    pub instances: [InstanceState; 2],
    pub jobs: [JobState; JOBS],
    /// By job, then by side.
    pub txs: [[Tx; 2]; JOBS],
    /// Links that are cut: see [`World::link`].
    pub cut: u8,
    /// Faults that have happened, and votes that were begun.
    pub faults: u8,
    pub rounds: u8,
    /// Operations that some client was told are applied, and are not.
    pub acknowledged: u8,
    pub refused: u8,
    /// Operations that a reader of the leader has seen the effect of.
    pub seen: u8,
}

/// The link between both instances.
pub const PEERS: usize = 4;
pub const LINKS: usize = 5;

impl World {
    /// The place of the link between an instance and a side.
    pub fn link(instance: Instance, side: Side) -> usize {
        2 * instance + side
    }

    pub fn is_cut(&self, link: usize) -> bool {
        self.cut & bit(link) != 0
    }

    /// Whether an instance that is up hears a side.
    pub fn reaches(&self, instance: Instance, side: Side) -> bool {
        self.sides[side].up && !self.is_cut(World::link(instance, side))
    }

    /// Whether it hears all of these.
    pub fn reaches_all(&self, instance: Instance, members: u8) -> bool {
        [A, B]
            .iter()
            .all(|s| members & bit(*s) == 0 || self.reaches(instance, *s))
    }

    /// Whether the fence of a side can be taken exclusively: no transaction holds it.
    pub fn fence_is_free(&self, side: Side) -> bool {
        self.txs.iter().all(|of_job| of_job[side] == Tx::None)
    }

    /// Whether every member stores this epoch.
    pub fn is_stored(&self, epoch: &Epoch) -> bool {
        [A, B]
            .iter()
            .all(|s| epoch.members & bit(*s) == 0 || self.sides[*s].epoch.n == epoch.n)
    }
}
