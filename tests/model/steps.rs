//! Every step there is, and the checker's view of them.

use stateright::{Model, Property};

use crate::scenario::Scenario;
use crate::state::*;

/// One step. The names are those of the code and of docs/protocol.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Lead(Job),
    Follow(Job),
    /// As `Follow`, but the follower has a change that the leader lacks.
    Guard(Job),
    Commit(Job),
    /// A COMMIT is executed, and answered if somebody still waits.
    Committed(Job, Side),
    /// A COMMIT that nobody waits for any more never arrives.
    Vanished(Job, Side),
    Abandon(Job),
    Probe(Job),
    Acknowledge(Job),
    Settle(Job),
    /// Only without [`Rule::BlockingProbe`](crate::Rule): a plain SELECT instead of a probe.
    Peek(Job),

    Adopt(Instance),
    /// An instance decides that a member is to go, and begins a vote.
    Candidate(Instance),
    /// Phase 1 and 2 of a vote, at one voter or at all that are heard.
    Promise(Instance, Voters),
    Accept(Instance, Voters),
    Withdraw(Instance),
    Eject(Instance),

    FenceOff(Instance),
    Pass(Instance),
    Readmit(Instance, Half),
    Align(Instance, Half),
    Sweep(Instance, Half),

    SideReturns(Side),
    InstanceReturns(Instance),
    Heal(usize),

    SideCrashes(Side),
    InstanceCrashes(Instance),
    Cut(usize),
    /// A COMMIT is executed and its answer is lost.
    LoseAnswer(Job, Side),
    /// A connection breaks under a COMMIT: it is executed later, or never.
    LateCommit(Job, Side),
}

/// Who is asked for a vote: all, or one: 0 and 1 are the instances, 2 and 3 the sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voters {
    All,
    One(usize),
}

/// Whether a merge is interrupted between its two commits, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    Whole,
    Reset,
    InstanceDies,
    SideDies,
}

impl Scenario {
    /// Steps that are taken at once: nobody else can see or prevent them, so their order does not matter.
    fn eager(&self, w: &World) -> Option<Action> {
        let adopt = (0..2).map(Action::Adopt);
        let jobs = self
            .jobs()
            .flat_map(|j| [Action::Abandon(j), Action::Commit(j), Action::Acknowledge(j)]);
        adopt
            .chain(jobs)
            .find(|action| self.perform(w, *action).is_some())
    }

    /// After all steps that are taken at once.
    pub fn at_rest(&self, w: &World) -> World {
        let mut w = *w;
        while let Some(next) = self.eager(&w).and_then(|action| self.perform(&w, action)) {
            w = next;
        }
        w
    }

    /// Steps that need no further fault, without the eager ones.
    fn progress(&self, mut found: impl FnMut(Action)) {
        use Action::*;
        for j in self.jobs() {
            for action in [Lead(j), Follow(j), Guard(j), Probe(j), Settle(j), Peek(j)] {
                found(action)
            }
            for s in [A, B] {
                found(Committed(j, s));
                found(Vanished(j, s));
            }
        }
        for i in 0..2 {
            for action in [Candidate(i), Withdraw(i), Eject(i), FenceOff(i), Pass(i)] {
                found(action)
            }
            for voters in self.voters() {
                found(Promise(i, *voters));
                found(Accept(i, *voters));
            }
            for merge in [Readmit, Align, Sweep] {
                found(merge(i, Half::Whole));
            }
            found(InstanceReturns(i));
        }
        for s in [A, B] {
            found(SideReturns(s));
        }
        for l in 0..LINKS {
            found(Heal(l));
        }
    }

    /// What may break.
    fn strokes(&self, mut found: impl FnMut(Action)) {
        use Action::*;
        for s in [A, B] {
            found(SideCrashes(s));
        }
        for l in 0..LINKS {
            found(Cut(l));
        }
        for i in 0..2 {
            found(InstanceCrashes(i));
            for merge in [Readmit, Align, Sweep] {
                for half in [Half::Reset, Half::InstanceDies, Half::SideDies] {
                    found(merge(i, half));
                }
            }
        }
        for j in self.jobs() {
            for s in [A, B] {
                found(LoseAnswer(j, s));
                found(LateCommit(j, s));
            }
        }
    }

    /// Whether nothing can happen any more unless something else breaks.
    pub fn is_quiet(&self, w: &World) -> bool {
        if w.cut != 0 || !w.sides.iter().all(|s| s.up) || !w.instances.iter().all(|i| i.up) {
            return false;
        }
        if self.eager(w).is_some() {
            return false;
        }
        let mut quiet = true;
        self.progress(|action| quiet = quiet && self.perform(w, action).is_none());
        quiet
    }

    /// One attempt at a step: the next state, if the step is possible now.
    fn perform(&self, w: &World, action: Action) -> Option<World> {
        use Action::*;
        match action {
            Lead(j) => self.lead(w, j),
            Follow(j) => self.follow(w, j, false),
            Guard(j) => self.follow(w, j, true),
            Commit(j) => self.commit(w, j),
            Committed(j, s) => self.committed(w, j, s),
            Vanished(j, s) => self.vanished(w, j, s),
            Abandon(j) => self.abandon(w, j),
            Probe(j) => self.probe(w, j),
            Acknowledge(j) => self.acknowledge(w, j),
            Settle(j) => self.settle(w, j),
            Peek(j) => self.peek(w, j),
            Adopt(i) => self.adopt(w, i),
            Candidate(i) => self.candidate(w, i),
            Promise(i, v) => self.promise(w, i, v),
            Accept(i, v) => self.accept(w, i, v),
            Withdraw(i) => self.withdraw(w, i),
            Eject(i) => self.eject(w, i),
            FenceOff(i) => self.fence_off(w, i),
            Pass(i) => self.pass(w, i),
            Readmit(i, half) => self.readmit(w, i, half),
            Align(i, half) => self.align(w, i, half),
            Sweep(i, half) => self.sweep(w, i, half),
            SideReturns(s) => self.side_returns(w, s),
            InstanceReturns(i) => self.instance_returns(w, i),
            Heal(l) => self.heal(w, l),
            SideCrashes(s) => self.side_crashes(w, s),
            InstanceCrashes(i) => self.instance_crashes(w, i),
            Cut(l) => self.cut(w, l),
            LoseAnswer(j, s) => self.lose_answer(w, j, s),
            LateCommit(j, s) => self.late_commit(w, j, s),
        }
    }
}

impl Scenario {
    /// A step in words.
    pub fn tell(&self, action: Action) -> String {
        use Action::*;
        let side = |s: Side| ["side a", "side b"][s];
        let web = |i: Instance| ["web1", "web2"][i];
        let job = |j: Job| format!("op{} at {}", self.op(j) + 1, web(self.at(j)));
        let link = |l: usize| match l {
            PEERS => "web1 - web2".to_owned(),
            l => format!("{} - {}", web(l / 2), side(l % 2)),
        };
        let voter = |v: Voters| match v {
            Voters::All => "all that are heard",
            Voters::One(v) => ["web1", "web2", "side a", "side b"][v],
        };
        let interrupted = |half: Half| match half {
            Half::Whole => "",
            Half::Reset => ", interrupted after its first commit",
            Half::InstanceDies => ", the instance dies after its first commit",
            Half::SideDies => ", the other side dies after its first commit",
        };
        let name = format!("{action:?}");
        let name = name.split('(').next().unwrap_or_default().to_owned();
        match action {
            Lead(j) | Follow(j) | Guard(j) | Commit(j) | Abandon(j) | Probe(j) | Acknowledge(j)
            | Settle(j) | Peek(j) => {
                format!("{name}: {}", job(j))
            }
            Committed(j, s) | Vanished(j, s) | LoseAnswer(j, s) | LateCommit(j, s) => {
                format!("{name}: {} on {}", job(j), side(s))
            }
            Adopt(i) | Candidate(i) | Withdraw(i) | Eject(i) | FenceOff(i) | Pass(i) => {
                format!("{name}: {}", web(i))
            }
            InstanceReturns(i) | InstanceCrashes(i) => format!("{name}: {}", web(i)),
            Promise(i, v) | Accept(i, v) => format!("{name}: {} asks {}", web(i), voter(v)),
            Readmit(i, half) | Align(i, half) | Sweep(i, half) => {
                format!("{name}: {}{}", web(i), interrupted(half))
            }
            SideReturns(s) | SideCrashes(s) => format!("{name}: {}", side(s)),
            Heal(l) | Cut(l) => format!("{name}: {}", link(l)),
        }
    }
}

impl Model for Scenario {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.start()]
    }

    fn actions(&self, w: &World, actions: &mut Vec<Action>) {
        if let Some(eager) = self.eager(w) {
            return actions.push(eager);
        }
        self.progress(|action| actions.push(action));
        if w.faults < self.faults {
            self.strokes(|action| {
                if self.only.is_none_or(|only| only(&action)) {
                    actions.push(action);
                }
            });
        }
    }

    fn next_state(&self, w: &World, action: Action) -> Option<World> {
        let mut next = self.perform(w, action)?;
        if self.readers {
            next.read();
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        crate::properties::all(self)
    }
}
