//! Who holds how much of the node's memory and CPU.
//!
//! Sandboxes that run a call or start for one hold memory and CPU; idle ones hold memory only.
//! CPU is counted in millionths of a core, so that sums are exact.

/// What the node has and what is in use. Memory in MiB, CPU in cores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Snapshot {
    /// Memory of the pool.
    pub memory_total: u64,
    /// Held by sandboxes that run or start.
    pub memory_busy: u64,
    /// Held by idle sandboxes.
    pub memory_warm: u64,
    /// Held by sandboxes that were started ahead of their function.
    pub memory_spare: u64,
    /// Cores of the pool.
    pub cpu_total: f64,
    /// Held by sandboxes that run or start.
    pub cpu_used: f64,
}

/// Account of memory and CPU.
#[derive(Debug, Clone)]
pub struct Ledger {
    memory_total: u64,
    memory_busy: u64,
    memory_warm: u64,
    /// Held by sandboxes without a function.
    memory_spare: u64,
    cpu_total: u64,
    cpu_used: u64,
}

const MICROS_PER_CORE: f64 = 1e6;

/// Cores as the ledger counts them.
pub(crate) fn micros(cores: f64) -> u64 {
    // A cast from a float saturates, and takes NaN and negative numbers as 0.
    (cores * MICROS_PER_CORE).round() as u64
}

impl Ledger {
    /// With nothing in use.
    pub fn new(memory_mb: u64, cpus: f64) -> Self {
        let cpu_total = micros(cpus);
        Self {
            memory_total: memory_mb,
            memory_busy: 0,
            memory_warm: 0,
            memory_spare: 0,
            cpu_total,
            cpu_used: 0,
        }
    }

    /// Whether an empty node could hold it.
    pub fn could_ever_fit(&self, memory: u64, cpu: u64) -> bool {
        memory <= self.memory_total && cpu <= self.cpu_total
    }

    /// Whether `cpu` is free.
    pub fn cpu_fits(&self, cpu: u64) -> bool {
        cpu <= self.cpu_total - self.cpu_used
    }

    /// Memory that no sandbox holds.
    pub fn memory_free(&self) -> u64 {
        self.memory_total - self.memory_busy - self.memory_warm - self.memory_spare
    }

    /// Memory of sandboxes without a function.
    pub fn memory_spare(&self) -> u64 {
        self.memory_spare
    }

    /// Memory that could be had by evicting every idle sandbox, and those without a function.
    pub fn memory_available(&self) -> u64 {
        self.memory_total - self.memory_busy
    }

    /// A sandbox starts for a call.
    pub(crate) fn take_busy(&mut self, memory: u64, cpu: u64) {
        self.memory_busy += memory;
        self.cpu_used += cpu;
        self.check();
    }

    /// A busy sandbox is gone.
    pub(crate) fn drop_busy(&mut self, memory: u64, cpu: u64) {
        self.memory_busy -= memory;
        self.cpu_used -= cpu;
    }

    /// A sandbox starts for nobody.
    pub(crate) fn take_warm(&mut self, memory: u64) {
        self.memory_warm += memory;
        self.check();
    }

    /// An idle sandbox is gone.
    pub(crate) fn drop_warm(&mut self, memory: u64) {
        self.memory_warm -= memory;
    }

    /// A sandbox starts without a function.
    pub(crate) fn take_spare(&mut self, memory: u64) {
        self.memory_spare += memory;
        self.check();
    }

    /// A sandbox without a function is gone, or has got one.
    pub(crate) fn drop_spare(&mut self, memory: u64) {
        self.memory_spare -= memory;
    }

    fn check(&self) {
        let held = self.memory_busy + self.memory_warm + self.memory_spare;
        debug_assert!(held <= self.memory_total);
        debug_assert!(self.cpu_used <= self.cpu_total);
    }

    /// What is in use.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            memory_total: self.memory_total,
            memory_busy: self.memory_busy,
            memory_warm: self.memory_warm,
            memory_spare: self.memory_spare,
            cpu_total: self.cpu_total as f64 / MICROS_PER_CORE,
            cpu_used: self.cpu_used as f64 / MICROS_PER_CORE,
        }
    }
}
