//! What asking others may cost: so many bytes a second, whatever the number of others; and being
//! asked by them, as far as that can be helped.

use std::time::Duration;

use crate::time::Timestamp;

/// Bytes a second that questions and their answers may take. A node is asked as much as it asks on
/// average, and somewhat more if it is near to many: with that, all of its status stays below 10 kB/s.
pub const BYTES_PER_SECOND: f64 = 3_600.0;

/// Bytes a second beyond which this node answers others with the least that is of use to them. An
/// answer left out would make it dead to them.
const ANSWERS_PER_SECOND: f64 = 3_600.0;

/// How much can be saved up, seconds: a start may ask a few at once.
const SAVED: f64 = 1.0;

/// What a datagram costs besides its bytes: the headers of IPv4 and UDP.
const HEADERS: usize = 28;

/// What an answer has at most, which is expected until some have come.
const ANSWER_MAX: usize = 1024;

/// How much one answer changes what is expected of the next.
const SHARE: f64 = 0.1;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Budget {
    saved: f64,
    refilled: Timestamp,
    /// Expected cost of a question with its answer.
    expected: f64,
    /// Cost of a question.
    question: f64,
}

impl Budget {
    pub(super) fn new(question_bytes: usize) -> Self {
        let question = (question_bytes + HEADERS) as f64;
        Self {
            saved: BYTES_PER_SECOND * SAVED,
            refilled: Timestamp::default(),
            expected: question + (ANSWER_MAX + HEADERS) as f64,
            question,
        }
    }

    pub(super) fn refill(&mut self, now: Timestamp) {
        let passed = now.since(self.refilled).as_secs_f64();
        self.refilled = now;
        self.saved = (self.saved + BYTES_PER_SECOND * passed).min(BYTES_PER_SECOND * SAVED);
    }

    /// Whether one more question can be paid for.
    pub(super) fn allows(&self) -> bool {
        self.saved >= self.expected
    }

    pub(super) fn ask(&mut self) {
        self.saved -= self.expected;
    }

    /// An answer of `bytes` came.
    pub(super) fn answered(&mut self, bytes: usize) {
        let cost = self.question + (bytes + HEADERS) as f64;
        self.saved += self.expected - cost;
        self.expected += SHARE * (cost - self.expected);
    }

    /// How many peers can be asked every `period` with this share of it all.
    pub(super) fn pays_for(&self, period: Duration, share: f64) -> usize {
        (BYTES_PER_SECOND * share * period.as_secs_f64() / self.expected) as usize
    }
}

/// What answering others has cost: whether an answer may be as long as it gets.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answers {
    spent: f64,
    forgotten: Timestamp,
}

impl Answers {
    /// Whether there is room for an answer with all that there is to tell.
    pub fn allow_long(&mut self, now: Timestamp) -> bool {
        let passed = now.since(self.forgotten).as_secs_f64();
        self.forgotten = now;
        self.spent = (self.spent - ANSWERS_PER_SECOND * passed).max(0.0);
        let longest = (ANSWER_MAX + HEADERS) as f64;
        self.spent + longest <= ANSWERS_PER_SECOND * SAVED
    }

    /// Counts a question and its answer, of so many bytes together.
    pub fn count(&mut self, bytes: usize) {
        let most = ANSWERS_PER_SECOND * SAVED * 2.0;
        self.spent = (self.spent + (bytes + 2 * HEADERS) as f64).min(most);
    }
}
