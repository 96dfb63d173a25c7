/*
 * Sets registers of a traced child from buffers of several sizes, and tells for each what happened:
 *
 *   whole SIZE: STATE      the whole XSAVE area
 *   short 576: STATE       the legacy region and the header, which is the least that says what it holds
 *   half 704: STATE        one half of what AVX has, too
 *   most SIZE: STATE       all but the last 8 bytes
 *   tiny 512: STATE        less than the least
 *
 * STATE is what the kernel refused it with, or what the child's registers hold then: `xmm0=` what was written (`set`) or what was there
 * before (`kept`), and `ymm0=` the same for its upper half, or `initial`, or `none` where the processor has no AVX.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { XMM0 = 160, XSTATE_BV = 512, LEAST = 576, YMM0 = 576, HALF = 704, SSE = 1 << 1, AVX = 1 << 2 };

static unsigned char area[1 << 16];
static size_t size;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void read_area(pid_t child)
{
	struct iovec all = { area, sizeof area };

	if (ptrace(PTRACE_GETREGSET, child, NT_X86_XSTATE, &all) < 0)
		fail("PTRACE_GETREGSET");
	size = all.iov_len;
}

/* Puts a value into xmm0 and the upper half of ymm0. */
static void fill(unsigned char value, int avx)
{
	uint64_t components;

	memcpy(&components, area + XSTATE_BV, sizeof components);
	components |= SSE | (avx ? AVX : 0);
	memcpy(area + XSTATE_BV, &components, sizeof components);
	memset(area + XMM0, value, 16);
	if (avx)
		memset(area + YMM0, value, 16);
}

static int holds(const unsigned char *at, unsigned char value)
{
	for (int i = 0; i < 16; i++)
		if (at[i] != value)
			return 0;
	return 1;
}

static const char *state(size_t offset, uint64_t component)
{
	uint64_t components;

	memcpy(&components, area + XSTATE_BV, sizeof components);
	if (!(components & component) || holds(area + offset, 0))
		return "initial";
	return holds(area + offset, 2) ? "set" : holds(area + offset, 1) ? "kept" : "other";
}

static void try(pid_t child, const char *name, size_t bytes, int avx)
{
	struct iovec part = { area, size };
	unsigned char *exact = malloc(bytes);

	/* What was there before. */
	read_area(child);
	fill(1, avx);
	if (ptrace(PTRACE_SETREGSET, child, NT_X86_XSTATE, &part) < 0)
		fail("PTRACE_SETREGSET of all");
	fill(2, avx);
	memcpy(exact, area, bytes);
	part = (struct iovec){ exact, bytes };
	printf("%s %zu: ", name, bytes);
	if (ptrace(PTRACE_SETREGSET, child, NT_X86_XSTATE, &part) < 0) {
		printf("%s\n", strerrorname_np(errno));
	} else {
		read_area(child);
		printf("xmm0=%s ymm0=%s\n", state(XMM0, SSE), avx ? state(YMM0, AVX) : "none");
	}
	free(exact);
}

int main(void)
{
	pid_t child = fork();
	int avx;

	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		_exit(0);
	}
	if (child < 0 || waitpid(child, NULL, 0) < 0)
		fail("child");
	avx = __builtin_cpu_supports("avx") != 0;
	read_area(child);
	try(child, "whole", size, avx);
	try(child, "short", LEAST, avx);
	try(child, "half", HALF, avx);
	try(child, "most", size - 8, avx);
	try(child, "tiny", XSTATE_BV, avx);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return 0;
}
