//! What a device sends, and how much of it per unit of time.

/// Limits what a device sends: one HTB class for everything, with a queue of its own behind it.
///
/// `tc`'s defaults are of no use here. With its burst a class falls short of its rate from some 50 Mbit/s on, and with
/// its queue of a thousand packets a slow class delays them by seconds. So both follow from the rate.
///
/// Segments that a network card or the sender has coalesced (GRO, TSO) form one packet of up to 64 KiB. HTB sends it as
/// a whole: at 1 Mbit/s that is half a second of the rate in one burst, and if it does not fit into the queue all of it
/// is lost. So the queue of a slow class segments such packets before it stores them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shaper {
    /// The rate.
    pub rate: Rate,
    /// The queue.
    pub queue: Queue,
}

/// Where packets wait until they may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// How much may wait, in bytes; anything more is dropped.
    pub limit: u32,
    /// The longest packet that is not segmented, in bytes.
    pub longest: u32,
}

/// How much an HTB class lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In bytes per second.
    pub bytes_per_second: u64,
    /// How long it may send at line rate after a silence, in ticks of 64 ns (`PSCHED_SHIFT`) at its rate.
    pub burst_ticks: u32,
}

/// The kernel counts time for its shapers in units of 2⁶ ns.
const TICK_NS: u64 = 64;

/// The length of a burst: 10 ms. A shorter one lets a class of several Gbit/s fall short of its rate when the CPU is
/// busy elsewhere; a longer one would exceed the rate by more than 1 % over a second.
const BURST_NS: u64 = 10_000_000;

/// The most that is subtracted from a rate: a 75th.
const MOST_TAKEN_OFF: u64 = 75;

/// The longest wait in the queue: a 20th of a second, 50 ms.
const QUEUE_PART: u64 = 20;

/// The smallest queue, in bytes. The initial window of a TCP connection, some 15 kB, must fit twice.
const LEAST_QUEUE: u64 = 32 * 1024;

/// From this rate on packets stay coalesced, in bytes per second: 64 KiB are less than 1 % of what passes in a second,
/// and segmenting them would cost more CPU time than it is worth.
const JOINED_FROM: u64 = 12_500_000;

impl Queue {
    /// Longer than any packet: none is segmented.
    pub const WHOLE: u32 = 1 << 24;
}

/// The length of an Ethernet header, without a tag and the frame check sequence, in bytes.
pub const ETHERNET_HEADER: u64 = 14;

impl Shaper {
    /// The shaper that limits a device to a rate in bytes per second, given its MTU in bytes.
    pub fn new(bytes_per_second: u64, mtu: u32) -> Self {
        let frame = u64::from(mtu) + ETHERNET_HEADER;
        // HTB sends while it has a token left, and so up to a frame more than the rate and the burst: subtracting one
        // frame per second keeps every second within 101 % of the rate.
        let exact = (bytes_per_second - frame.min(bytes_per_second / MOST_TAKEN_OFF)).max(1);
        let rate = Rate { bytes_per_second: exact, burst_ticks: saturated(BURST_NS / TICK_NS) };
        let queue = Queue {
            limit: saturated((bytes_per_second / QUEUE_PART).max(LEAST_QUEUE)),
            longest: if bytes_per_second < JOINED_FROM { saturated(frame) } else { Queue::WHOLE },
        };
        Self { rate, queue }
    }
}

fn saturated(number: u64) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

/// The egress shaping of a device, as in the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Egress {
    /// Whether its root is the HTB that we make. If not, the other fields mean nothing.
    pub ours: bool,
    /// The rate of our class.
    pub rate: Option<Rate>,
    /// The queue behind our class.
    pub queue: Option<Queue>,
    /// Whether there are classes or filters that we do not make, through which packets could bypass our class.
    pub bypassed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_and_queue_follow_the_rate() {
        let shaper = |mbit: u64| Shaper::new(mbit * 125_000, 1450);
        let ten_ms = 156_250;
        assert_eq!(shaper(100).rate, Rate { bytes_per_second: 12_500_000 - 1464, burst_ticks: ten_ms });
        assert_eq!([1, 10, 100, 1000].map(|mbit| shaper(mbit).queue.limit), [32_768, 62_500, 625_000, 6_250_000]);
    }

    #[test]
    fn no_second_has_more_than_101_percent() {
        for mbit in [1, 2, 5, 10, 100, 1000, 10_000] {
            let wanted = mbit * 125_000;
            let Shaper { rate, .. } = Shaper::new(wanted, 1450);
            let burst = wanted / 100;
            let most = rate.bytes_per_second + burst + 1464;
            assert!(most * 100 <= wanted * 101, "{most} of {wanted}");
            assert!(rate.bytes_per_second * 100 >= wanted * 98, "{rate:?} of {wanted}");
        }
    }

    #[test]
    fn only_slow_shapers_segment_packets() {
        let longest = |mbit: u64| Shaper::new(mbit * 125_000, 1450).queue.longest;
        assert_eq!([1, 99, 100, 10_000].map(longest), [1464, 1464, Queue::WHOLE, Queue::WHOLE]);
    }

    #[test]
    fn nothing_overflows() {
        let slowest = Shaper::new(0, u32::MAX);
        assert_eq!(slowest.rate.bytes_per_second, 1);
        assert_eq!(Shaper::new(u64::MAX, 1450).queue.limit, u32::MAX);
    }
}
