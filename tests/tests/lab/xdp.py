"""Attaches an XDP program that lets everything pass to an interface: INTERFACE generic|native."""
import ctypes
import os
import socket
import struct
import sys

device, mode = sys.argv[1:]
# r0 = XDP_PASS; exit
code = ctypes.create_string_buffer(struct.pack("=BBhi", 0xB7, 0, 0, 2) + struct.pack("=BBhi", 0x95, 0, 0, 0), 16)
licence = ctypes.create_string_buffer(b"GPL")
arguments = struct.pack("=IIQQ", 6, 2, ctypes.addressof(code), ctypes.addressof(licence))
arguments = ctypes.create_string_buffer(arguments, 128)
number = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
libc = ctypes.CDLL(None, use_errno=True)
program = libc.syscall(number, 5, arguments, 128)
if program < 0:
    sys.exit(f"BPF_PROG_LOAD: {os.strerror(ctypes.get_errno())}")


def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value


# IFLA_XDP with IFLA_XDP_FD and IFLA_XDP_FLAGS, in RTM_SETLINK.
flags = {"generic": 2, "native": 4}[mode]
xdp = attribute(1, struct.pack("=i", program)) + attribute(3, struct.pack("=I", flags))
body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(device), 0, 0) + attribute(43 | 0x8000, xdp)
request = struct.pack("=IHHII", 16 + len(body), 19, 1 | 4, 1, 0) + body
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
kernel.send(request)
error = struct.unpack_from("=i", kernel.recv(4096), 16)[0]
if error:
    sys.exit(f"RTM_SETLINK: {os.strerror(-error)}")
