/// A small generator, so that a failure's seed can be replayed.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Seeded by `RBUILD_SEED` or else the clock; the seed is printed.
    pub fn seeded() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let seed = std::env::var("RBUILD_SEED").map(|text| text.parse().expect("a number"));
        let seed = seed.unwrap_or(now as u64);
        eprintln!("seed {seed}");
        Self(seed)
    }

    /// A number from 0 to below the limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
