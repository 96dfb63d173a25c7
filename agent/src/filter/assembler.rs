//! Programs in classic BPF (`linux/filter.h`), as `cls_bpf` accepts them over rtnetlink, and an assembler for them.
//!
//! Jumps only go forward, so programs terminate. A load from beyond the end of the packet ends the program with 0,
//! which here means "not accepted".

use std::sync::Arc;

/// One instruction (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instruction {
    /// The opcode.
    pub code: u16,
    /// How many instructions a conditional jump skips if its condition holds.
    pub jt: u8,
    /// How many if it does not.
    pub jf: u8,
    /// Its operand.
    pub k: u32,
}

/// A program that decides whether a packet is accepted: it returns [`ACCEPT`], or 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Program(Arc<[Instruction]>);

impl Program {
    /// Its instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }
}

impl FromIterator<Instruction> for Program {
    fn from_iter<T: IntoIterator<Item = Instruction>>(instructions: T) -> Self {
        Self(instructions.into_iter().collect())
    }
}

/// What an accepting program returns: the filter matches, without a class of its own.
pub(super) const ACCEPT: u32 = u32::MAX;

/// Where a load reads.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    /// At this offset in the frame, in bytes.
    Frame(u32),
    /// At this offset behind register X, in bytes.
    BehindX(u32),
}

impl At {
    /// The same, further on by this many bytes.
    pub(super) fn plus(self, bytes: u32) -> At {
        match self {
            At::Frame(at) => At::Frame(at + bytes),
            At::BehindX(at) => At::BehindX(at + bytes),
        }
    }
}

/// What the kernel knows about a packet besides its bytes (`SKF_AD_OFF` and so on).
#[derive(Debug, Clone, Copy)]
pub(super) enum Ancillary {
    /// The ethertype by which the packet will be delivered, after its tag was stripped.
    Protocol = 0,
    /// The hardware type of the device (`ARPHRD_*`).
    HardwareType = 28,
    /// The VLAN tag that was stripped (TCI).
    VlanTag = 44,
    /// Whether there was one.
    VlanTagPresent = 48,
    /// Its ethertype.
    VlanTpid = 60,
}

/// The position of an instruction that is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

mod op {
    pub(super) const LOAD_IMMEDIATE: u16 = 0x00;
    pub(super) const LOAD_WORD: u16 = 0x20;
    pub(super) const LOAD_HALF: u16 = 0x28;
    pub(super) const LOAD_BYTE: u16 = 0x30;
    /// Added to one of the three loads: it reads behind X.
    pub(super) const BEHIND_X: u16 = 0x20;
    pub(super) const LOAD_MEMORY: u16 = 0x60;
    pub(super) const LOAD_LENGTH: u16 = 0x80;
    pub(super) const STORE: u16 = 0x02;
    pub(super) const STORE_X: u16 = 0x03;
    pub(super) const X_IMMEDIATE: u16 = 0x01;
    pub(super) const X_MEMORY: u16 = 0x61;
    pub(super) const X_IPV4_HEADER: u16 = 0xb1;
    pub(super) const ADD: u16 = 0x04;
    pub(super) const ADD_X: u16 = 0x0c;
    pub(super) const SUBTRACT_X: u16 = 0x1c;
    pub(super) const AND: u16 = 0x54;
    pub(super) const SHIFT_LEFT: u16 = 0x64;
    pub(super) const A_TO_X: u16 = 0x07;
    pub(super) const X_TO_A: u16 = 0x87;
    pub(super) const JUMP: u16 = 0x05;
    pub(super) const IF_EQUAL: u16 = 0x15;
    pub(super) const IF_EQUAL_X: u16 = 0x1d;
    pub(super) const IF_GREATER: u16 = 0x25;
    pub(super) const IF_GREATER_X: u16 = 0x2d;
    pub(super) const IF_AT_LEAST: u16 = 0x35;
    pub(super) const IF_ANY_BIT: u16 = 0x45;
    pub(super) const RETURN: u16 = 0x06;
}

enum Item {
    Plain(u16, u32),
    Branch { code: u16, k: u32, yes: Option<Label>, no: Option<Label> },
    Goto(Label),
    Here(Label),
}

/// Assembles a program. Register A holds what was loaded last; X is an offset.
#[derive(Default)]
pub(super) struct Assembler {
    items: Vec<Item>,
    labels: usize,
}

impl Assembler {
    pub(super) fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    /// Binds the label to the next instruction.
    pub(super) fn here(&mut self, label: Label) {
        self.items.push(Item::Here(label));
    }

    pub(super) fn goto(&mut self, label: Label) {
        self.items.push(Item::Goto(label));
    }

    fn plain(&mut self, code: u16, k: u32) {
        self.items.push(Item::Plain(code, k));
    }

    fn load(&mut self, code: u16, at: At) {
        match at {
            At::Frame(at) => self.plain(code, at),
            At::BehindX(at) => self.plain(code + op::BEHIND_X, at),
        }
    }

    pub(super) fn word(&mut self, at: At) {
        self.load(op::LOAD_WORD, at);
    }

    pub(super) fn half(&mut self, at: At) {
        self.load(op::LOAD_HALF, at);
    }

    pub(super) fn byte(&mut self, at: At) {
        self.load(op::LOAD_BYTE, at);
    }

    pub(super) fn ancillary(&mut self, what: Ancillary) {
        const SKF_AD_OFF: u32 = 0u32.wrapping_sub(0x1000);
        self.plain(op::LOAD_WORD, SKF_AD_OFF + what as u32);
    }

    /// Sets A to the length of the frame.
    pub(super) fn length(&mut self) {
        self.plain(op::LOAD_LENGTH, 0);
    }

    pub(super) fn constant(&mut self, value: u32) {
        self.plain(op::LOAD_IMMEDIATE, value);
    }

    /// Sets X to the length of the IPv4 header that begins there.
    pub(super) fn x_to_ipv4_header_len(&mut self, at: u32) {
        self.plain(op::X_IPV4_HEADER, at);
    }

    pub(super) fn x_to(&mut self, value: u32) {
        self.plain(op::X_IMMEDIATE, value);
    }

    pub(super) fn a_to_x(&mut self) {
        self.plain(op::A_TO_X, 0);
    }

    pub(super) fn x_to_a(&mut self) {
        self.plain(op::X_TO_A, 0);
    }

    pub(super) fn store(&mut self, cell: u32) {
        self.plain(op::STORE, cell);
    }

    pub(super) fn store_x(&mut self, cell: u32) {
        self.plain(op::STORE_X, cell);
    }

    pub(super) fn recall(&mut self, cell: u32) {
        self.plain(op::LOAD_MEMORY, cell);
    }

    pub(super) fn recall_x(&mut self, cell: u32) {
        self.plain(op::X_MEMORY, cell);
    }

    pub(super) fn and(&mut self, mask: u32) {
        self.plain(op::AND, mask);
    }

    pub(super) fn add(&mut self, value: u32) {
        self.plain(op::ADD, value);
    }

    pub(super) fn add_x(&mut self) {
        self.plain(op::ADD_X, 0);
    }

    pub(super) fn subtract_x(&mut self) {
        self.plain(op::SUBTRACT_X, 0);
    }

    pub(super) fn shift_left(&mut self, bits: u32) {
        self.plain(op::SHIFT_LEFT, bits);
    }

    fn branch(&mut self, code: u16, k: u32, yes: impl Into<Option<Label>>, no: impl Into<Option<Label>>) {
        self.items.push(Item::Branch { code, k, yes: yes.into(), no: no.into() });
    }

    /// Jumps to `label` if A is `value`.
    pub(super) fn if_equal(&mut self, value: u32, label: Label) {
        self.branch(op::IF_EQUAL, value, label, None);
    }

    /// Jumps to `label` unless A is `value`.
    pub(super) fn unless_equal(&mut self, value: u32, label: Label) {
        self.branch(op::IF_EQUAL, value, None, label);
    }

    /// Jumps to `label` if A equals X.
    pub(super) fn if_equal_x(&mut self, label: Label) {
        self.branch(op::IF_EQUAL_X, 0, label, None);
    }

    /// Jumps to `label` unless A equals X.
    pub(super) fn unless_equal_x(&mut self, label: Label) {
        self.branch(op::IF_EQUAL_X, 0, None, label);
    }

    pub(super) fn if_greater(&mut self, value: u32, label: Label) {
        self.branch(op::IF_GREATER, value, label, None);
    }

    /// Jumps to `label` if A is greater than X.
    pub(super) fn if_greater_x(&mut self, label: Label) {
        self.branch(op::IF_GREATER_X, 0, label, None);
    }

    pub(super) fn if_at_least(&mut self, value: u32, label: Label) {
        self.branch(op::IF_AT_LEAST, value, label, None);
    }

    pub(super) fn unless_at_least(&mut self, value: u32, label: Label) {
        self.branch(op::IF_AT_LEAST, value, None, label);
    }

    pub(super) fn if_any_bit(&mut self, mask: u32, label: Label) {
        self.branch(op::IF_ANY_BIT, mask, label, None);
    }

    pub(super) fn finish(&mut self, value: u32) {
        self.plain(op::RETURN, value);
    }

    /// Assembles the program from its end: then all labels that a jump can refer to are known, and one that is too far
    /// for a conditional jump is reached by an unconditional one right behind it.
    pub(super) fn assemble(self) -> Program {
        /// One less than the field holds, because a second intermediate jump may come between.
        const FARTHEST: usize = 254;
        let distance =
            |from: usize, to: usize| u32::try_from(from - to).expect("programs have some thousand instructions");
        let near = |from: usize, to: usize| u8::try_from(from - to).expect("what is farther has an intermediate jump");
        // The number of instructions behind each label.
        let mut places = vec![0; self.labels];
        let mut reversed: Vec<Instruction> = Vec::with_capacity(self.items.len());
        for item in self.items.into_iter().rev() {
            let next = reversed.len();
            match item {
                Item::Here(label) => places[label.0] = next,
                Item::Plain(code, k) => reversed.push(Instruction { code, jt: 0, jf: 0, k }),
                Item::Goto(label) if places[label.0] == next => {}
                Item::Goto(label) => {
                    reversed.push(Instruction { code: op::JUMP, jt: 0, jf: 0, k: distance(next, places[label.0]) });
                }
                Item::Branch { code, k, yes, no } => {
                    let mut targets = [yes, no].map(|label| label.map_or(next, |label| places[label.0]));
                    for target in &mut targets {
                        let from = reversed.len();
                        if from - *target > FARTHEST {
                            reversed.push(Instruction { code: op::JUMP, jt: 0, jf: 0, k: distance(from, *target) });
                            *target = from + 1;
                        }
                    }
                    let [jt, jf] = targets.map(|target| near(reversed.len(), target));
                    reversed.push(Instruction { code, jt, jf, k });
                }
            }
        }
        reversed.into_iter().rev().collect()
    }
}

#[cfg(test)]
pub(super) mod interpreter {
    //! Runs programs as the kernel does.

    use super::{Program, op};

    /// A frame as it is at the ingress hook: the outermost VLAN tag is stripped.
    #[derive(Debug, Clone, Default)]
    pub(in crate::filter) struct Packet {
        pub(in crate::filter) bytes: Vec<u8>,
        pub(in crate::filter) tag: Option<(u16, u16)>,
        pub(in crate::filter) hardware: u32,
    }

    impl Packet {
        /// A frame as it came over the wire.
        pub(in crate::filter) fn received(mut bytes: Vec<u8>) -> Packet {
            let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let tag = matches!(half(12), 0x8100 | 0x88a8).then(|| (half(12), half(14)));
            if tag.is_some() {
                bytes.drain(12..16);
            }
            Packet { bytes, tag, hardware: 1 }
        }

        fn read(&self, at: usize, length: usize) -> Option<u32> {
            let bytes = self.bytes.get(at..at + length)?;
            Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
        }
    }

    pub(in crate::filter) fn accepts(program: &Program, packet: &Packet) -> bool {
        run(program, packet).is_some_and(|value| value != 0)
    }

    /// What a program returns; none if it reads beyond the end.
    pub(in crate::filter) fn run(program: &Program, packet: &Packet) -> Option<u32> {
        let (mut a, mut x, mut memory, mut at) = (0u32, 0u32, [None; 16], 0);
        loop {
            let it = program.instructions()[at];
            at += 1;
            let place = |base: u32| (base + it.k) as usize;
            match it.code {
                op::LOAD_IMMEDIATE => a = it.k,
                op::LOAD_WORD if it.k >= 0xffff_f000 => {
                    a = match it.k - 0xffff_f000 {
                        0 => match packet.read(12, 2)? {
                            length @ ..0x600 => u32::from(length != 0),
                            ethertype => ethertype,
                        },
                        28 => packet.hardware,
                        44 => packet.tag.map_or(0, |(_, tci)| tci.into()),
                        48 => packet.tag.is_some().into(),
                        60 => packet.tag.map_or(0, |(tpid, _)| tpid.into()),
                        other => panic!("ancillary {other}"),
                    }
                }
                op::LOAD_LENGTH => a = u32::try_from(packet.bytes.len()).ok()?,
                op::LOAD_WORD => a = packet.read(place(0), 4)?,
                op::LOAD_HALF => a = packet.read(place(0), 2)?,
                op::LOAD_BYTE => a = packet.read(place(0), 1)?,
                0x40 => a = packet.read(place(x), 4)?,
                0x48 => a = packet.read(place(x), 2)?,
                0x50 => a = packet.read(place(x), 1)?,
                op::LOAD_MEMORY => a = memory[place(0)].expect("the kernel refuses uninitialised reads"),
                op::STORE => memory[place(0)] = Some(a),
                op::STORE_X => memory[place(0)] = Some(x),
                op::X_IMMEDIATE => x = it.k,
                op::X_MEMORY => x = memory[place(0)].expect("the kernel refuses uninitialised reads"),
                op::X_IPV4_HEADER => x = (packet.read(place(0), 1)? & 0xf) * 4,
                op::ADD => a = a.wrapping_add(it.k),
                op::ADD_X => a = a.wrapping_add(x),
                op::SUBTRACT_X => a = a.wrapping_sub(x),
                op::AND => a &= it.k,
                op::SHIFT_LEFT => a <<= it.k,
                op::A_TO_X => x = a,
                op::X_TO_A => a = x,
                op::JUMP => at += it.k as usize,
                op::RETURN => return Some(it.k),
                branch => {
                    let holds = match branch {
                        op::IF_EQUAL => a == it.k,
                        op::IF_EQUAL_X => a == x,
                        op::IF_GREATER => a > it.k,
                        op::IF_GREATER_X => a > x,
                        op::IF_AT_LEAST => a >= it.k,
                        op::IF_ANY_BIT => a & it.k != 0,
                        other => panic!("instruction {other:#x}"),
                    };
                    at += usize::from(if holds { it.jt } else { it.jf });
                }
            }
        }
    }
}
