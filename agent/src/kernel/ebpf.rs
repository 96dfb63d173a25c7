//! Assembles eBPF programs (`linux/bpf.h`, `Documentation/bpf/standardization/instruction-set.rst`).

use std::os::fd::RawFd;

/// A register: 0 to 10; register 10 is the frame pointer.
pub(super) type Register = u8;

/// A jump target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Label(usize);

/// A program that is being assembled.
#[derive(Default)]
pub(super) struct Code {
    instructions: Vec<u64>,
    /// The position of each label.
    labels: Vec<usize>,
    /// Which instruction jumps to which label.
    jumps: Vec<(usize, Label)>,
}

impl Code {
    /// One instruction (`struct bpf_insn`).
    fn push(&mut self, code: u8, to: Register, from: Register, offset: i16, value: i32) {
        let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
        let mut bytes = [code, registers, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
        bytes[4..].copy_from_slice(&value.to_ne_bytes());
        self.instructions.push(u64::from_ne_bytes(bytes));
    }

    fn jump(&mut self, code: u8, register: Register, value: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(code, register, 0, 0, value);
    }

    /// A new label, to be placed further on.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    /// Binds the label to this position.
    pub(super) fn here(&mut self, label: Label) {
        self.labels[label.0] = self.instructions.len();
    }

    pub(super) fn goto(&mut self, label: Label) {
        self.jump(0x05, 0, 0, label);
    }

    pub(super) fn if_equal(&mut self, register: Register, value: i32, label: Label) {
        self.jump(0x15, register, value, label);
    }

    pub(super) fn if_other(&mut self, register: Register, value: i32, label: Label) {
        self.jump(0x55, register, value, label);
    }

    pub(super) fn if_any_bit(&mut self, register: Register, mask: i32, label: Label) {
        self.jump(0x45, register, mask, label);
    }

    pub(super) fn if_less(&mut self, register: Register, value: i32, label: Label) {
        self.jump(0xa5, register, value, label);
    }

    pub(super) fn if_signed_less(&mut self, register: Register, value: i32, label: Label) {
        self.jump(0xc5, register, value, label);
    }

    pub(super) fn copy(&mut self, to: Register, from: Register) {
        self.push(0xbf, to, from, 0, 0);
    }

    pub(super) fn constant(&mut self, to: Register, value: i32) {
        self.push(0xb7, to, 0, 0, value);
    }

    pub(super) fn add(&mut self, to: Register, value: i32) {
        self.push(0x07, to, 0, 0, value);
    }

    pub(super) fn add_register(&mut self, to: Register, from: Register) {
        self.push(0x0f, to, from, 0, 0);
    }

    pub(super) fn subtract_register(&mut self, to: Register, from: Register) {
        self.push(0x1f, to, from, 0, 0);
    }

    pub(super) fn and(&mut self, to: Register, mask: i32) {
        self.push(0x57, to, 0, 0, mask);
    }

    pub(super) fn and32(&mut self, to: Register, mask: i32) {
        self.push(0x54, to, 0, 0, mask);
    }

    pub(super) fn shift_left(&mut self, to: Register, bits: i32) {
        self.push(0x67, to, 0, 0, bits);
    }

    /// Converts 16 bits from network order to host order.
    pub(super) fn swap16(&mut self, register: Register) {
        self.push(0xdc, register, 0, 0, 16);
    }

    pub(super) fn load8(&mut self, to: Register, from: Register, offset: i16) {
        self.push(0x71, to, from, offset, 0);
    }

    pub(super) fn load16(&mut self, to: Register, from: Register, offset: i16) {
        self.push(0x69, to, from, offset, 0);
    }

    pub(super) fn load32(&mut self, to: Register, from: Register, offset: i16) {
        self.push(0x61, to, from, offset, 0);
    }

    /// Without `CAP_PERFMON`, kernels before 6.8 forbid partial writes to a stack slot that they consider a spilled
    /// register: a number with known bounds. After a byte-order instruction, even one that changes nothing, they know
    /// no bounds.
    pub(super) fn store32(&mut self, to: Register, offset: i16, from: Register) {
        let same_order = if cfg!(target_endian = "little") { 0xd4 } else { 0xdc };
        self.push(same_order, from, 0, 0, 32);
        self.push(0x63, to, from, offset, 0);
    }

    pub(super) fn store8_constant(&mut self, to: Register, offset: i16, value: i32) {
        self.push(0x72, to, 0, offset, value);
    }

    pub(super) fn store8(&mut self, to: Register, offset: i16, from: Register) {
        self.push(0x73, to, from, offset, 0);
    }

    pub(super) fn store32_constant(&mut self, to: Register, offset: i16, value: i32) {
        self.push(0x62, to, 0, offset, value);
    }

    pub(super) fn call(&mut self, helper: i32) {
        self.push(0x85, 0, 0, 0, helper);
    }

    /// Sets register 0 to 0 unless the map has the key on the stack.
    pub(super) fn look_up(&mut self, map: RawFd, key: i16) {
        const MAP_LOOKUP_ELEM: i32 = 1;
        const PSEUDO_MAP_FD: Register = 1;
        self.push(0x18, 1, PSEUDO_MAP_FD, 0, map);
        self.push(0, 0, 0, 0, 0);
        self.copy(2, 10);
        self.add(2, key.into());
        self.call(MAP_LOOKUP_ELEM);
    }

    pub(super) fn exit(&mut self) {
        self.push(0x95, 0, 0, 0, 0);
    }

    /// The instructions.
    pub(super) fn assemble(mut self) -> Vec<u64> {
        for (from, label) in self.jumps {
            let distance = i16::try_from(self.labels[label.0] - from - 1).expect("programs are short and lead forward");
            let mut bytes = self.instructions[from].to_ne_bytes();
            bytes[2..4].copy_from_slice(&distance.to_ne_bytes());
            self.instructions[from] = u64::from_ne_bytes(bytes);
        }
        self.instructions
    }
}
