//! One probe: what is sent, how long to wait, and what follows from what came back. Socket and randomness are
//! arguments.

use super::{
    packet::{MAX_FORGED, Mark, SMALLEST},
    search::Search,
};
use crate::kernel::probe::Echo;
use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

/// How many small packets a probe sends.
pub(crate) const SMALL: u32 = 3;
/// How many packets it sends if nothing is lost.
pub(crate) const LEAST: u32 = SMALL + 1;
/// How many packets of different lengths it sends together if long ones are lost.
const LENGTHS: u32 = 3;
/// The gap between small packets: several that are lost together are lost by one fault.
const SPACING: Duration = Duration::from_millis(50);
/// How long the first reply may take.
const FIRST_ANSWER: Duration = Duration::from_millis(400);
/// How long to wait for others once one round-trip time is known: this multiple of it, within these bounds.
const TIMES: u32 = 2;
const SHORTEST_WAIT: Duration = Duration::from_millis(40);

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Small packets to be sent.
    pub(crate) sent: u32,
    /// The round-trip times of those that came back, in ascending order.
    pub(crate) round_trips: Vec<Duration>,
    /// The longest packet that came back, in bytes; none also if a longer one was lost that could not be resent in
    /// time.
    pub(crate) longest: Option<u32>,
    /// Replies that did not belong to this probe.
    pub(crate) forged: u32,
    /// The kernel's error when it did not accept a packet.
    pub(crate) send_error: Option<String>,
}

impl Outcome {
    /// The median of the times; of two the longer one.
    pub(crate) fn median(&self) -> Option<Duration> {
        self.round_trips.get(self.round_trips.len() / 2).copied()
    }
}

/// One request.
struct Request {
    length: u32,
    sent: Instant,
    took: Option<Duration>,
}

struct Probe<'a, E> {
    echo: &'a mut E,
    mark: Mark,
    to: IpAddr,
    deadline: Instant,
    requests: Vec<Request>,
    forged: u32,
    send_error: Option<String>,
}

/// Sends a few small packets, and one of `expected_mtu` bytes if that is known; if it alone is lost, some in between.
/// `take` returns whether this many more packets may be sent: the fixed ones have been granted already. It ends at the
/// deadline.
pub(crate) fn probe(
    echo: &mut impl Echo,
    mark: Mark,
    to: IpAddr,
    expected_mtu: Option<u32>,
    mut take: impl FnMut(u32) -> bool,
    deadline: Instant,
) -> io::Result<Outcome> {
    let mut probe = Probe { echo, mark, to, deadline, requests: Vec::new(), forged: 0, send_error: None };
    for number in 0..SMALL {
        probe.send(SMALLEST);
        if let Some(mtu) = expected_mtu.filter(|_| number == 0) {
            probe.send(mtu);
        }
        if number + 1 < SMALL {
            probe.listen(SPACING, |_| false)?;
        }
    }
    let all = |requests: &[Request]| requests.iter().all(|request| request.took.is_some());
    probe.listen(FIRST_ANSWER, |requests| requests.iter().any(|request| request.took.is_some()))?;
    probe.listen(probe.wait(), all)?;
    let mut longest = probe.requests.iter().filter(|it| it.took.is_some()).map(|it| it.length).max();
    let mut again = true;
    if let Some(mtu) = expected_mtu.filter(|mtu| longest.is_some_and(|longest| longest < *mtu)) {
        let mut search = Search::below(mtu);
        while Instant::now() + probe.wait() < deadline && probe.forged < MAX_FORGED {
            // A packet lost by chance must not be mistaken for one that is too long.
            let lengths = if again { vec![mtu] } else { search.next(LENGTHS) };
            let more = u32::try_from(lengths.len()).unwrap_or(u32::MAX);
            if lengths.is_empty() {
                break;
            }
            if !take(more) {
                // There will be room again soon.
                probe.listen(SHORTEST_WAIT, |_| false)?;
                continue;
            }
            let first = probe.requests.len();
            for length in &lengths {
                probe.send(*length);
            }
            probe.listen(probe.wait(), |requests| all(&requests[first..]))?;
            let back = |request: &&Request| request.took.is_some();
            let passed: Vec<u32> = probe.requests.iter().filter(back).map(|request| request.length).collect();
            again = false;
            if passed.contains(&mtu) {
                break;
            }
            search.learn(&lengths, &passed);
        }
        // A packet lost by chance means nothing.
        let lengths = probe.requests.iter().filter(|it| it.took.is_some()).map(|it| it.length);
        longest = if again { None } else { lengths.max() };
    }
    let small = probe.requests.iter().filter(|request| request.length == SMALLEST);
    let mut round_trips: Vec<Duration> = small.filter_map(|request| request.took).collect();
    round_trips.sort_unstable();
    Ok(Outcome { sent: SMALL, round_trips, longest, forged: probe.forged, send_error: probe.send_error })
}

impl<E: Echo> Probe<'_, E> {
    /// One that the kernel does not accept is lost.
    fn send(&mut self, length: u32) {
        // There are a few dozen at most.
        let sequence = u16::try_from(self.requests.len()).unwrap_or(u16::MAX);
        let request = self.mark.request(self.to, sequence, length);
        let sent = Instant::now();
        if let Err(error) = self.echo.send(&request) {
            self.send_error.get_or_insert_with(|| format!("{length} bytes: {error}"));
        }
        self.requests.push(Request { length, sent, took: None });
    }

    /// How long to wait for replies.
    fn wait(&self) -> Duration {
        let longest = self.requests.iter().filter_map(|request| request.took).max();
        longest.map_or(Duration::ZERO, |longest| (longest * TIMES).clamp(SHORTEST_WAIT, FIRST_ANSWER))
    }

    /// Receives replies for this long, or until there are enough.
    fn listen(&mut self, patience: Duration, enough: impl Fn(&[Request]) -> bool) -> io::Result<()> {
        let until = (Instant::now() + patience).min(self.deadline);
        while !enough(&self.requests) && self.forged < MAX_FORGED {
            let Some(packet) = self.echo.receive(until)? else { break };
            let now = Instant::now();
            let reply = self.mark.reply(self.to, packet);
            let request = reply.and_then(|reply| {
                let request = self.requests.get_mut(usize::from(reply.sequence))?;
                (request.length == reply.length).then_some(request)
            });
            match request {
                // If a request was answered twice, the first reply counts.
                Some(request) => drop(request.took.get_or_insert(now - request.sent)),
                None => self.forged += 1,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const MARK: Mark = Mark { identifier: 7, nonce: [9; 16] };

    /// The other end.
    #[derive(Default)]
    struct Other {
        mtu: usize,
        /// These requests are lost, counted from 0.
        lost: Vec<usize>,
        /// What comes before each reply.
        noise: Vec<Vec<u8>>,
        sent: Vec<usize>,
        answers: VecDeque<Vec<u8>>,
        current: Vec<u8>,
    }

    impl Echo for Other {
        fn send(&mut self, request: &[u8]) -> io::Result<()> {
            let number = self.sent.len();
            self.sent.push(request.len() + 40);
            if request.len() + 40 <= self.mtu && !self.lost.contains(&number) {
                let mut answer = request.to_vec();
                answer[0] = 129;
                self.answers.extend(self.noise.iter().cloned());
                self.answers.push_back(answer);
            }
            Ok(())
        }

        fn receive(&mut self, until: Instant) -> io::Result<Option<&[u8]>> {
            let Some(answer) = self.answers.pop_front() else {
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
                return Ok(None);
            };
            self.current = answer;
            Ok(Some(&self.current))
        }
    }

    fn run(other: &mut Other, mtu: Option<u32>, take: impl FnMut(u32) -> bool) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(1);
        probe(other, MARK, "fd00:2::1".parse().unwrap(), mtu, take, deadline).unwrap()
    }

    #[test]
    fn few_packets_are_sent_if_all_pass() {
        let mut other = Other { mtu: 1500, ..Other::default() };
        let outcome = run(&mut other, Some(1450), |_| panic!("no more are needed"));
        assert_eq!((outcome.sent, outcome.round_trips.len(), outcome.longest), (3, 3, Some(1450)));
        assert_eq!(other.sent, [64, 1450, 64, 64]);
        assert!(outcome.round_trips.is_sorted() && outcome.median() == Some(outcome.round_trips[1]));
        let mut other = Other { mtu: 1500, ..Other::default() };
        assert_eq!(run(&mut other, None, |_| false).longest, Some(64));
    }

    #[test]
    fn no_length_is_searched_if_nothing_passes() {
        let mut other = Other::default();
        let began = Instant::now();
        let outcome = run(&mut other, Some(1450), |_| panic!("small ones do not pass either"));
        assert_eq!((outcome.sent, outcome.round_trips.len(), outcome.longest, outcome.median()), (3, 0, None, None));
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn the_longest_length_that_passes_is_found() {
        let mut other = Other { mtu: 1300, ..Other::default() };
        let mut taken = 0;
        let outcome = run(&mut other, Some(1450), |more| {
            taken += more;
            true
        });
        let longest = outcome.longest.unwrap();
        assert!(longest <= 1300 && longest + 8 > 1300, "{longest}");
        assert_eq!(usize::try_from(taken + LEAST).unwrap(), other.sent.len());
        assert!(taken <= 13, "{taken}");
        // With nothing left in the budget, only what is known is reported.
        let mut other = Other { mtu: 1300, ..Other::default() };
        assert_eq!((run(&mut other, Some(1450), |_| false).longest, other.sent.len()), (None, 4));
    }

    #[test]
    fn a_packet_lost_by_chance_is_resent() {
        let mut other = Other { mtu: 1500, lost: vec![1, 2], ..Other::default() };
        let outcome = run(&mut other, Some(1450), |_| true);
        assert_eq!((outcome.sent, outcome.round_trips.len(), outcome.longest), (3, 2, Some(1450)));
    }

    #[test]
    fn forged_replies_are_ignored() {
        let answer = |mark: Mark, sequence, length| {
            let mut forged = mark.request("fd00:2::1".parse().unwrap(), sequence, length);
            forged[0] = 129;
            forged
        };
        let guessed = Mark { nonce: [8; 16], ..MARK };
        // With another nonce; a true one of another length; to a request that was not sent.
        let noise = vec![answer(guessed, 0, 64), answer(MARK, 0, 65), answer(MARK, 900, 64)];
        let mut other = Other { mtu: 0, noise: noise.clone(), ..Other::default() };
        other.answers.extend(noise.clone());
        let outcome = run(&mut other, Some(1450), |_| true);
        assert_eq!((outcome.round_trips.len(), outcome.longest, outcome.forged), (0, None, 3));
        let mut other = Other { mtu: 1500, noise, ..Other::default() };
        let outcome = run(&mut other, Some(1450), |_| true);
        assert_eq!((outcome.round_trips.len(), outcome.longest, outcome.forged), (3, Some(1450), 12));
        // It cannot be made to read forever.
        let mut other = Other::default();
        other.answers.extend(std::iter::repeat_n(answer(guessed, 0, 64), 1000));
        assert_eq!(run(&mut other, Some(1450), |_| true).forged, MAX_FORGED);
    }

    #[test]
    fn packets_that_the_kernel_refuses_are_lost_and_reported() {
        struct Refusing;
        impl Echo for Refusing {
            fn send(&mut self, _: &[u8]) -> io::Result<()> {
                Err(io::ErrorKind::NetworkUnreachable.into())
            }
            fn receive(&mut self, until: Instant) -> io::Result<Option<&[u8]>> {
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
                Ok(None)
            }
        }
        let deadline = Instant::now() + Duration::from_millis(300);
        let outcome = probe(&mut Refusing, MARK, "10.2.0.1".parse().unwrap(), None, |_| true, deadline).unwrap();
        assert!(outcome.send_error.as_deref().is_some_and(|said| said.starts_with("64 bytes: ")), "{outcome:?}");
        assert!(outcome.round_trips.is_empty() && Instant::now() < deadline + Duration::from_millis(200));
    }
}
