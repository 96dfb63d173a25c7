"""Sends frames that a hostile tenant could make: SEED COUNT INTERFACE GATEWAY_MAC TARGET4 TARGET6 FORGED4 FORGED6 VNIS.

Every datagram carries the word FORGED and a source that is not the sender's: none may be received by anybody.
"""
import random
import socket
import struct
import sys

seed, count, interface, gateway, target4, target6, forged4, forged6, vnis = sys.argv[1:]
rng = random.Random(int(seed))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((interface, 0))
own = wire.getsockname()[4]
gateway = bytes.fromhex(gateway.replace(":", ""))
PORT = 7777


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(source, target):
    body = b"FORGED" + rng.randbytes(rng.choice([0, 1, 8, 26]))
    head = struct.pack("!HHHH", rng.randrange(1, 65536), rng.choice([PORT, PORT, 4789]), 8 + len(body), 0)
    pseudo = source + target + (struct.pack("!HH", 17, 8 + len(body)) if len(source) == 4 else struct.pack("!II", 8 + len(body), 17))
    return head[:6] + struct.pack("!H", checksum(pseudo + head + body) or 0xFFFF) + body


def vxlan(source, target):
    """Into a device of somebody else: a frame of a peer's, or of nobody's."""
    kind, make = rng.choice([(0x0800, ipv4), (0x86DD, ipv6)])
    payload = make()
    to = rng.choice([b"\x02\0\xc0\0\x02\x01", b"\x02\0\xc0\0\x02\x02", b"\xff" * 6])
    inside = to + own + struct.pack("!H", kind) + payload
    body = struct.pack("!II", 0x08000000, int(rng.choice(vnis.split(","))) << 8) + inside[:1200]
    head = struct.pack("!HHHH", rng.randrange(1, 65536), 4789, 8 + len(body), 0)
    pseudo = source + target + (struct.pack("!HH", 17, 8 + len(body)) if len(source) == 4 else struct.pack("!II", 8 + len(body), 17))
    return head[:6] + struct.pack("!H", checksum(pseudo + head + body) or 0xFFFF) + body


def ipv4(payload=None, protocol=17):
    source, target = (socket.inet_aton(rng.choice(it.split(","))) for it in (forged4, target4))
    payload = (vxlan if rng.random() < 0.1 else udp)(source, target) if payload is None else payload
    options = rng.choice([b"", b"", b"\x01\x01\x01\x00", b"\x83\x07\x04" + target + b"\x00", b"\x07\x07\x04\0\0\0\0\0"])
    fragment = rng.choice([0, 0, 0, 0x4000, 0x2000, 0x2001, rng.randrange(65536)])
    head = struct.pack("!BBHHHBBH", 0x40 | 5 + len(options) // 4, rng.randrange(256), 20 + len(options) + len(payload),
                       rng.randrange(65536), fragment, rng.choice([64, 1, 0, 255]), protocol, 0) + source + target + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(payload=None, protocol=17):
    source, target = (socket.inet_pton(socket.AF_INET6, rng.choice(it.split(","))) for it in (forged6, target6))
    payload = (vxlan if rng.random() < 0.1 else udp)(source, target) if payload is None else payload
    kind = rng.randrange(5)
    if kind == 1:  # hop-by-hop options
        payload, protocol = bytes([protocol, 0, 1, 4, 0, 0, 0, 0]) + payload, 0
    elif kind == 2:  # a fragment
        payload, protocol = bytes([protocol, 0]) + struct.pack("!HI", rng.choice([0, 1, 9]), rng.getrandbits(32)) + payload, 44
    elif kind == 3:  # a routing header
        payload, protocol = bytes([protocol, 2, rng.choice([0, 2, 4]), 1, 0, 0, 0, 0]) + target + payload, 43
    return struct.pack("!IHBB", 0x60000000 | rng.getrandbits(28), len(payload), protocol, rng.choice([64, 1, 255])) + source + target + payload


def icmp_error():
    """An error that quotes a packet of the host's own underlay."""
    if rng.random() < 0.5:
        quoted = struct.pack("!BBHHHBBH", 0x45, 0, 1500, 1, 0x4000, 64, 17, 0) + rng.choice([b"\0\0\0\0", bytes([192, 0, 2, 1])]) + bytes([192, 0, 2, 2])
        body = struct.pack("!BBHHH", 3, 4, 0, 0, rng.choice([552, 68, 1280])) + quoted + struct.pack("!HHHH", 5000, 4789, 1480, 0)
        return 0x0800, ipv4(body[:2] + struct.pack("!H", checksum(body)) + body[4:], 1)
    return 0x86DD, ipv6(struct.pack("!BBHI", 2, 0, 0, 1280) + ipv6(), 58)


def inner():
    kind = rng.randrange(8)
    if kind < 3:
        return 0x0800, ipv4()
    if kind < 6:
        return 0x86DD, ipv6()
    if kind == 6:
        return icmp_error()
    # A packet within a packet: IP in IP, 6in4, GRE.
    return 0x0800, rng.choice([lambda: ipv4(ipv4(), 4), lambda: ipv4(ipv6(), 41), lambda: ipv4(struct.pack("!HH", 0, 0x0800) + ipv4(), 47)])()


def frame():
    kind, payload = inner()
    for _ in range(rng.choice([0, 0, 1, 1, 2])):  # tags, outermost last
        payload = struct.pack("!HH", rng.choice([0, 0, 0x2000, 0x1000, 1, 4095]), kind) + payload
        kind = rng.choice([0x8100, 0x88A8, 0x9100])
    if rng.random() < 0.1:  # SNAP
        payload = b"\xaa\xaa\x03\0\0\0" + struct.pack("!H", kind) + payload
        kind = len(payload)
    elif rng.random() < 0.05:
        kind = rng.choice([0x8847, 0x8864, 0x0806, 0x88CC, rng.randrange(0x600, 0x10000)])
    if rng.random() < 0.05:
        payload = payload[:rng.randrange(1, len(payload))]
    return gateway + own + struct.pack("!H", kind) + payload


for _ in range(int(count)):
    try:
        wire.send(frame()[:1514])
    except OSError:
        # Longer than the interface takes.
        pass
