//! Solving the program.
//!
//! The memory that a flow needs is set to what it uses, which removes the paper's `x` and `y`, and
//! dropping is what is left over: three variables a flow, and a few rows besides one for each flow.
//! As the solver's tolerances are absolute, everything is divided by its limit, and a variable is
//! the part of the greatest share that a place can take, so that no number is greater than 1.

use good_lp::solvers::microlp::microlp;
use good_lp::solvers::{SolutionStatus, WithTimeLimit as _};
use good_lp::{
    Expression, ProblemVariables, ResolutionError, Solution as _, SolverModel as _, Variable,
    constraint, variable,
};

use super::draw::Probabilities;
use super::program::{FLOWS_MAX, Program, Terms};

/// What a flow is worth at least to the solver, as a share of the one that is worth most.
const LEAST_GAIN: f64 = 1e-6;

/// What counts as no use of something limited, of what counts as no share: there are many to add up.
const NEGLIGIBLE_USE: f64 = 1e-2;

/// How long the solver may compute. It takes well below a second: this is for the case that it goes
/// round in circles. The clock is the solver's own, and decides nothing but that.
const SECONDS_MAX: f64 = 30.0;

/// By how much, of a limit, a solution may miss it: round-off.
const TOLERANCE: f64 = 1e-4;

/// What is missing of minimum completions may be more than it must by this, in sum.
const MISSING_MORE: f64 = 1e-6;

/// Numbers that count as 0, try by try: what is next to nothing can make the solver stumble.
const NEGLIGIBLE: [f64; 3] = [1e-7, 1e-5, 1e-3];

/// The best there is.
#[derive(Debug, Clone, PartialEq)]
pub struct Solution {
    /// For each flow.
    pub probabilities: Vec<Probabilities>,
    /// Net utility a second.
    pub objective: f64,
    /// Classes (by index) whose minimum completion is out of reach, and by how much.
    pub shortfalls: Vec<(usize, f64)>,
}

/// Why there is no solution.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unsolved {
    /// The program is too large.
    #[error("{0} pairs of function and class, of {FLOWS_MAX} at most")]
    TooLarge(usize),
    /// A number in it is none.
    #[error("the program has a number that is not finite")]
    NotFinite,
    /// The solver gave up.
    #[error("the solver says: {0}")]
    Solver(String),
    /// The solver's answer is wrong.
    #[error("the solver's answer breaks a rule by {0}")]
    Wrong(f64),
}

/// Where a flow can go.
#[derive(Clone, Copy)]
struct Column {
    variable: Variable,
    /// The greatest share of the flow that can go there.
    most: f64,
}

/// For each place of a flow: here, in the cloud, on a neighbor.
type Columns = Vec<[Option<Column>; 3]>;

/// What is to be found.
#[derive(Clone, Copy)]
enum Goal {
    /// The most utility, with all minimum completions.
    Utility,
    /// By how little minimum completions must be missed, in sum.
    Completion,
    /// The most utility, with minimum completions missed by this in sum.
    Missing(f64),
}

impl Program {
    /// The best probabilities for each flow.
    ///
    /// Minimum completions that can't all be reached are missed by as little as possible.
    pub fn solve(&self) -> Result<Solution, Unsolved> {
        if self.flows.len() > FLOWS_MAX {
            return Err(Unsolved::TooLarge(self.flows.len()));
        }
        let terms: Vec<Terms> = self.flows.iter().map(|flow| self.terms(flow)).collect();
        if !self.is_finite(&terms) {
            return Err(Unsolved::NotFinite);
        }
        let mut failure = Unsolved::NotFinite;
        for negligible in NEGLIGIBLE {
            match self.attempt(&terms, negligible) {
                Ok(solution) => return Ok(solution),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn attempt(&self, terms: &[Terms], negligible: f64) -> Result<Solution, Unsolved> {
        let search = |goal| self.search(terms, negligible, goal);
        let found = match search(Goal::Utility) {
            Err(ResolutionError::Infeasible) => {
                let nearest = search(Goal::Completion).map_err(solver)?;
                let classes = 0..self.classes.len();
                let missing: f64 = classes.map(|class| self.shortfall(&nearest, class)).sum();
                // A little more, or the solver finds that out of reach, too.
                search(Goal::Missing(missing + MISSING_MORE))
            }
            found => found,
        };
        let probabilities = found.map_err(solver)?;
        let violation = self.violation(&probabilities, false);
        if violation > TOLERANCE {
            return Err(Unsolved::Wrong(violation));
        }
        let missed = |class: usize| (class, self.shortfall(&probabilities, class));
        let shortfalls = (0..self.classes.len()).map(missed);
        Ok(Solution {
            objective: self.objective(&probabilities),
            shortfalls: shortfalls.filter(|(_, by)| *by > TOLERANCE).collect(),
            probabilities,
        })
    }

    fn is_finite(&self, terms: &[Terms]) -> bool {
        let limits = [self.local_limit(), self.edge_memory_mb, self.cloud_cost];
        let fine = |it: &Terms| {
            let values = it.values.iter().flatten();
            let all = [it.dropped, it.local_mb, it.edge_mb, it.cost];
            values.chain(&all).all(|number| number.is_finite())
        };
        limits.iter().all(|it| it.is_finite()) && terms.iter().all(fine)
    }

    fn search(
        &self,
        terms: &[Terms],
        negligible: f64,
        goal: Goal,
    ) -> Result<Vec<Probabilities>, ResolutionError> {
        let mut variables = ProblemVariables::new();
        let columns: Columns = terms
            .iter()
            .map(|it| self.columns(it, negligible, &mut variables))
            .collect();
        let misses: Vec<Variable> = match goal {
            Goal::Utility => Vec::new(),
            Goal::Completion | Goal::Missing(_) => {
                variables.add_vector(variable().min(0.0).max(1.0), self.classes.len())
            }
        };
        let missing = || -> Expression { misses.iter().copied().map(Expression::from).sum() };
        let problem = match goal {
            Goal::Completion => variables.minimise(missing()),
            Goal::Utility | Goal::Missing(_) => variables.maximise(utility(terms, &columns)),
        };
        let mut model = problem.using(microlp).with_time_limit(SECONDS_MAX);
        for flow in &columns {
            let mut sum = Expression::with_capacity(3);
            for column in flow.iter().flatten() {
                sum.add_mul(column.most, column.variable);
            }
            model.add_constraint(constraint::leq(sum, 1.0));
        }
        for (place, limit) in self.limits().into_iter().enumerate() {
            // Where it is 0, there are no variables that would use something.
            if let Some(limit) = limit.filter(|limit| *limit > 0.0) {
                let used = used(terms, &columns, negligible, (place, limit));
                model.add_constraint(constraint::leq(used, 1.0));
            }
        }
        for (class, share) in self.completions(&columns) {
            let missed = misses.get(class).copied().map(Expression::from);
            let kept = share + missed.unwrap_or_default();
            let least = self.classes[class].completion;
            model.add_constraint(constraint::geq(kept, least));
        }
        if let Goal::Missing(most) = goal {
            model.add_constraint(constraint::leq(missing(), most));
        }
        let solution = model.solve()?;
        if !matches!(solution.status(), SolutionStatus::Optimal) {
            return Err(ResolutionError::Other("it was stopped before it was done"));
        }
        let share =
            |place: Option<Column>| place.map_or(0.0, |it| it.most * solution.value(it.variable));
        let found = columns.iter().map(|[local, cloud, edge]| {
            let (local, cloud, edge) = (share(*local), share(*cloud), share(*edge));
            let drop = 1.0 - local - cloud - edge;
            let all = Probabilities {
                local,
                cloud,
                edge,
                drop,
            };
            all.normalized()
        });
        found
            .collect::<Option<_>>()
            .ok_or(ResolutionError::Other("it answers with no numbers"))
    }

    /// What there is of what is limited in each place.
    fn limits(&self) -> [Option<f64>; 3] {
        [
            Some(self.local_limit()),
            self.budget_limit(),
            Some(self.edge_memory_mb.max(0.0)),
        ]
    }

    /// Variables for where a flow can go at all.
    fn columns(
        &self,
        terms: &Terms,
        negligible: f64,
        variables: &mut ProblemVariables,
    ) -> [Option<Column>; 3] {
        let limits = self.limits();
        std::array::from_fn(|place| {
            terms.values[place]?;
            let used = terms.used(place);
            let most = match limits[place] {
                Some(limit) if used > 0.0 => (limit / used).min(1.0),
                _ => 1.0,
            };
            (most > negligible).then(|| Column {
                variable: variables.add(variable().min(0.0).max(1.0)),
                most,
            })
        })
    }

    /// For each class with a minimum completion, the share of its calls that are not dropped.
    fn completions(&self, columns: &Columns) -> Vec<(usize, Expression)> {
        let mut all = Vec::new();
        for (class, it) in self.classes.iter().enumerate() {
            let flows = self.flows.iter().zip(columns);
            let flows = flows.filter(|(flow, _)| flow.class == class);
            let arriving: f64 = flows.clone().map(|(flow, _)| flow.rate).sum();
            if it.completion <= 0.0 || arriving <= 0.0 {
                continue;
            }
            let mut share = Expression::with_capacity(0);
            for (flow, columns) in flows {
                for column in columns.iter().flatten() {
                    let part = flow.rate / arriving * column.most;
                    if part > NEGLIGIBLE[0] {
                        share.add_mul(part, column.variable);
                    }
                }
            }
            all.push((class, share));
        }
        all
    }
}

impl Terms {
    /// What a flow uses of what is limited in a place.
    fn used(&self, place: usize) -> f64 {
        [self.local_mb, self.cost, self.edge_mb][place]
    }
}

/// The net utility, divided by the greatest there is. Flows that are nearly nothing beside others
/// count for a little more, or the solver wouldn't see what is best for them.
fn utility(terms: &[Terms], columns: &Columns) -> Expression {
    let gain = |it: &Terms, place: usize, column: &Column| {
        it.values[place].map_or(0.0, |value| (value - it.dropped) * column.most)
    };
    let greatest_of = |(it, columns): (&Terms, &[Option<Column>; 3])| {
        let columns = columns.iter().enumerate();
        let gains = columns.filter_map(|(place, column)| Some(gain(it, place, column.as_ref()?)));
        gains.map(f64::abs).fold(0.0, f64::max)
    };
    let flows = || terms.iter().zip(columns);
    let greatest = flows().map(greatest_of).fold(0.0, f64::max);
    let mut sum = Expression::with_capacity(terms.len() * 3);
    for (it, columns) in flows() {
        let own = greatest_of((it, columns));
        if own <= 0.0 {
            continue;
        }
        let share = (own / greatest).max(LEAST_GAIN);
        for (place, column) in columns.iter().enumerate() {
            if let Some(column) = column {
                let gain = gain(it, place, column) / own * share;
                sum.add_mul(gain, column.variable);
            }
        }
    }
    sum
}

/// What is used in a place, divided by its limit.
fn used(
    terms: &[Terms],
    columns: &Columns,
    negligible: f64,
    (place, limit): (usize, f64),
) -> Expression {
    let mut sum = Expression::with_capacity(terms.len());
    for (it, columns) in terms.iter().zip(columns) {
        if let Some(column) = columns[place] {
            let share = it.used(place) / limit * column.most;
            // All of them together still fit into what is tolerated.
            if share > negligible * NEGLIGIBLE_USE {
                sum.add_mul(share, column.variable);
            }
        }
    }
    sum
}

fn solver(error: ResolutionError) -> Unsolved {
    Unsolved::Solver(error.to_string())
}
