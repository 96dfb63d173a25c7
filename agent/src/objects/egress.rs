//! What a device sends, and how much of it in a time.

/// Limits what a device sends: one HTB class that takes everything, with a queue of its own behind it.
///
/// `tc`'s defaults are of no use here. With its burst a class falls short of its rate from some 50 Mbit/s on, and with its
/// queue of a thousand packets a slow class holds them for seconds. So both follow from the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shaper {
    /// What may pass.
    pub rate: Rate,
    /// How much may wait, in bytes; what is more is dropped.
    pub queue: u32,
}

/// How much an HTB class lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In bytes per second.
    pub bytes_per_second: u64,
    /// How long it may send at once after it was silent, in ticks of 64 ns (`PSCHED_SHIFT`), at its rate.
    pub burst_ticks: u32,
}

/// The kernel counts time for its shapers in units of 2⁶ ns.
const TICK_NS: u64 = 64;

/// How long a burst is, where that is enough for a frame: 10 ms. A shorter one lets a class of several Gbit/s fall short of
/// its rate when the processor is busy elsewhere; a longer one would exceed the rate over a second.
const BURST_NS: u64 = 10_000_000;

/// How long the longest wait in the queue is: 50 ms.
const QUEUE_PART: u64 = 20;

/// The smallest queue, in bytes. What a network card has joined on reception (GRO) is one packet to the queue, of up to
/// 64 KiB, and what does not fit is dropped as a whole: the first window of a TCP connection, some 15 kB, must fit twice.
const LEAST_QUEUE: u64 = 32 * 1024;

impl Shaper {
    /// What limits a device with an MTU of so many bytes to a number of bytes per second.
    pub fn new(bytes_per_second: u64, mtu: u32) -> Self {
        const ETHERNET_HEADER: u64 = 14;
        let bytes_per_second = bytes_per_second.max(1);
        let frame_ns = (u64::from(mtu) + ETHERNET_HEADER).saturating_mul(1_000_000_000).div_ceil(bytes_per_second);
        let burst_ticks = BURST_NS.max(frame_ns).div_ceil(TICK_NS);
        let rate = Rate { bytes_per_second, burst_ticks: saturated(burst_ticks) };
        Self { rate, queue: saturated((bytes_per_second / QUEUE_PART).max(LEAST_QUEUE)) }
    }
}

fn saturated(number: u64) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

/// What decides about what a device sends, as the kernel has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Egress {
    /// Whether its root is the HTB that we make. All else says nothing where it is not.
    pub ours: bool,
    /// The rate of our class.
    pub rate: Option<Rate>,
    /// The length of the queue behind our class in bytes.
    pub queue: Option<u32>,
    /// Whether there are classes or filters that we do not make, by which something could pass beside our class.
    pub bypassed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_and_queue_follow_the_rate() {
        let shaper = |mbit: u64| Shaper::new(mbit * 125_000, 1450);
        let ten_ms = 156_250;
        assert_eq!(shaper(100).rate, Rate { bytes_per_second: 12_500_000, burst_ticks: ten_ms });
        assert_eq!(shaper(10_000).rate.burst_ticks, ten_ms);
        // 1464 bytes take 11.712 ms.
        assert_eq!(shaper(1).rate.burst_ticks, 183_000);
        assert_eq!([1, 10, 100, 1000].map(|mbit| shaper(mbit).queue), [32_768, 62_500, 625_000, 6_250_000]);
    }

    #[test]
    fn nothing_overflows() {
        let slowest = Shaper::new(0, u32::MAX);
        assert_eq!((slowest.rate.bytes_per_second, slowest.rate.burst_ticks), (1, u32::MAX));
        assert_eq!(Shaper::new(u64::MAX, 1450).queue, u32::MAX);
    }
}
