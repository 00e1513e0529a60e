"""The process-wide native thread pool, as LLVM text (x86-64 Linux with glibc; what depends on it is all
here).

`pool_ir()` is compiled to an object of its own and loaded once per process; every compiled model receives the
addresses of the three functions in its call frame, so a host program may pass its own:

    i64  cnncc_pool_acquire(i64 threads)
        Takes the pool for one inference. Returns the number of threads to use, the caller included: `threads`
        (at most 255), fewer where the system gives no more, 1 where another caller holds it: that one runs
        alone.
    void cnncc_pool_run(ptr kernel, ptr args, i64 tasks, i64 threads)
        Calls `kernel(args, begin, end, thread)` until each of `tasks` (< 2**32) has run exactly once; returns
        when all have finished. `threads` is what acquire returned; the caller is thread 0. No two calls run
        under one thread index at a time. A kernel must not call the pool.
    void cnncc_pool_release()
        Gives it back, from the thread that took it; without effect in any other.

One 64-bit word holds the state. The caller opens a region by one store; a worker enters it by a compare-and-
swap while it is open and leaves by a subtraction; the caller closes it when no task is left and waits for
those inside only: a worker that the system keeps from running costs nothing. Thread t owns tasks [t * tasks /
n, (t + 1) * tasks / n), takes an eighth of what is left of them (at least one) at a time from its own
counter, then from the others' in turn. A counter carries the number of its region, so none has to be reset.

Workers spin while the pool is held (about 2 ms at most) and some 50 us after a release, then sleep, each on a
futex of its own. Whoever spins longer than some 25 us yields the CPU between looks. Time is the time stamp
counter's.

Workers start when first wanted and never end: the object must stay loaded. They block all signals but those
of faults, flush denormals (FTZ, DAZ) and may run on the caller's affinity mask without the CPU on which the
caller is, as seen at an acquire that starts workers or finds another thread, CPU or number of threads than
the last; a caller that moves during an inference is not followed. Where the mask has fewer CPUs than
`threads` they may run on all of it. A forked child starts its own workers.
"""

_EXTERNAL = """
declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i64 @pthread_self()
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @pthread_setaffinity_np(i64, i64, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sigdelset(ptr, i32)
declare i32 @memcmp(ptr, ptr, i64)
declare i32 @__register_atfork(ptr, ptr, ptr, ptr)
declare i64 @llvm.readcyclecounter()
declare i64 @llvm.ctpop.i64(i64)
declare void @llvm.x86.sse2.pause()
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""

# The word: bits 0-7 workers inside, 8-15 threads of the region, 16 held, 17 closed, 18-25 threads of the
# inference, 26-63 the region's number.
_STATE = """
%state = type { i64, ptr, ptr, i64, [12 x i64] }            ; the word, kernel, args, tasks: one line to read
%slot = type { i64, [15 x i64], i32, i64, [14 x i64] }      ; a thread's counter | asleep, pthread_t
@state = internal global %state zeroinitializer, align 128
@slots = internal global [256 x %slot] zeroinitializer, align 128
@started = internal global i64 0, align 128    ; workers that exist; from here on the holder's
@caller = internal global i64 0
@cpu = internal global i32 -1
@wanted = internal global i64 0
@registered = internal global i1 false
@mask = internal global [16 x i64] zeroinitializer, align 8
"""

_WORK = """
define internal void @relax(i64 %since) {
  call void @llvm.x86.sse2.pause()
  %now = call i64 @llvm.readcyclecounter()
  %spent = sub i64 %now, %since
  %long = icmp ugt i64 %spent, 65536
  br i1 %long, label %yield, label %done
yield:
  %rc = call i32 @sched_yield()
  br label %done
done:
  ret void
}

define internal void @work(ptr %kernel, ptr %args, i64 %tasks, i64 %n, i64 %region, i64 %thread) {
entry:
  %tag = shl i64 %region, 32
  br label %share
share:
  %k = phi i64 [ 0, %entry ], [ %k1, %empty ]
  %v0 = add i64 %thread, %k
  %over = icmp uge i64 %v0, %n
  %v1 = sub i64 %v0, %n
  %v = select i1 %over, i64 %v1, i64 %v0
  %vt = mul i64 %v, %tasks
  %lo = udiv i64 %vt, %n
  %vt1 = add i64 %vt, %tasks
  %hi = udiv i64 %vt1, %n
  %size = sub i64 %hi, %lo
  %counter = getelementptr %slot, ptr @slots, i64 %v
  br label %take
take:
  %first = load atomic i64, ptr %counter monotonic, align 8
  br label %look
look:
  %old = phi i64 [ %first, %take ], [ %other, %claim ]
  %oldtag = and i64 %old, -4294967296
  %fresh = icmp eq i64 %oldtag, %tag
  %low = and i64 %old, 4294967295
  %i = select i1 %fresh, i64 %low, i64 0
  %left = sub i64 %size, %i
  %none = icmp eq i64 %left, 0
  br i1 %none, label %empty, label %claim
claim:
  %eighth = lshr i64 %left, 3
  %i1 = add i64 %i, %eighth
  %j = add i64 %i1, 1
  %new = or i64 %tag, %j
  %pair = cmpxchg ptr %counter, i64 %old, i64 %new monotonic monotonic
  %other = extractvalue { i64, i1 } %pair, 0
  %mine = extractvalue { i64, i1 } %pair, 1
  br i1 %mine, label %call, label %look
call:
  %begin = add i64 %lo, %i
  %end = add i64 %lo, %j
  call void %kernel(ptr %args, i64 %begin, i64 %end, i64 %thread)
  br label %take
empty:
  %k1 = add i64 %k, 1
  %last = icmp eq i64 %k1, %n
  br i1 %last, label %done, label %share
done:
  ret void
}
"""

# A worker says that it sleeps, then looks at the word; the caller changes the word, then looks who sleeps.
# All of it is sequentially consistent: one of the two sees the other and no wake-up is lost.
_WORKER = """
define internal ptr @worker(ptr %arg) {
entry:
  %thread = ptrtoint ptr %arg to i64
  %csr = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %csr)
  %c0 = load i32, ptr %csr
  %c1 = or i32 %c0, 32832
  store i32 %c1, ptr %csr
  call void @llvm.x86.sse.ldmxcsr(ptr %csr)
  %asleep = getelementptr %slot, ptr @slots, i64 %thread, i32 2
  br label %reset
reset:
  %seen = phi i64 [ -1, %entry ], [ %region, %missed ], [ %region, %leave ], [ %seen, %awake ]
  %since = call i64 @llvm.readcyclecounter()
  br label %look
look:
  %w = load atomic i64, ptr @state acquire, align 128
  %region = lshr i64 %w, 26
  %n0 = lshr i64 %w, 8
  %n = and i64 %n0, 255
  %old = icmp eq i64 %region, %seen
  br i1 %old, label %idle, label %news
news:
  %closed0 = and i64 %w, 131072
  %open = icmp eq i64 %closed0, 0
  %mine = icmp ult i64 %thread, %n
  %join = and i1 %open, %mine
  br i1 %join, label %enter, label %missed
missed:
  br label %reset
enter:
  %w1 = add i64 %w, 1
  %pair = cmpxchg ptr @state, i64 %w, i64 %w1 acq_rel monotonic
  %inside = extractvalue { i64, i1 } %pair, 1
  br i1 %inside, label %part, label %look
part:
  %kernel = load ptr, ptr getelementptr (%state, ptr @state, i64 0, i32 1)
  %args = load ptr, ptr getelementptr (%state, ptr @state, i64 0, i32 2)
  %tasks = load i64, ptr getelementptr (%state, ptr @state, i64 0, i32 3)
  call void @work(ptr %kernel, ptr %args, i64 %tasks, i64 %n, i64 %region, i64 %thread)
  br label %leave
leave:
  %inside1 = atomicrmw sub ptr @state, i64 1 release
  br label %reset
idle:
  %held0 = and i64 %w, 65536
  %held = icmp ne i64 %held0, 0
  %party0 = lshr i64 %w, 18
  %party = and i64 %party0, 255
  %member = icmp ult i64 %thread, %party
  %patience = select i1 %held, i64 4194304, i64 131072
  %limit = select i1 %member, i64 %patience, i64 0
  %now = call i64 @llvm.readcyclecounter()
  %spent = sub i64 %now, %since
  %wait = icmp ult i64 %spent, %limit
  br i1 %wait, label %spin, label %doze
spin:
  call void @relax(i64 %since)
  br label %look
doze:
  %was = atomicrmw xchg ptr %asleep, i32 1 seq_cst
  %w2 = load atomic i64, ptr @state seq_cst, align 128
  %region2 = lshr i64 %w2, 26
  %same = icmp eq i64 %region2, %seen
  br i1 %same, label %sleep, label %awake
sleep:
  %rc = call i64 (i64, ...) @syscall(i64 202, ptr %asleep, i64 128, i64 1, ptr null)
  br label %awake
awake:
  store atomic i32 0, ptr %asleep monotonic, align 4
  br label %reset
}
"""

_RUN = """
define void @cnncc_pool_run(ptr %kernel, ptr %args, i64 %tasks, i64 %threads) {
entry:
  %few = icmp ult i64 %tasks, %threads
  %n = select i1 %few, i64 %tasks, i64 %threads
  %several = icmp ugt i64 %n, 1
  br i1 %several, label %open, label %one
one:
  %none = icmp eq i64 %tasks, 0
  br i1 %none, label %done, label %alone
alone:
  call void %kernel(ptr %args, i64 0, i64 %tasks, i64 0)
  br label %done
open:
  %w0 = load atomic i64, ptr @state monotonic, align 128
  %last = lshr i64 %w0, 26
  %region = add i64 %last, 1
  %f0 = shl i64 %region, 26
  %f1 = shl i64 %threads, 18
  %f2 = shl i64 %n, 8
  %f01 = or i64 %f0, %f1
  %f012 = or i64 %f01, %f2
  %w = or i64 %f012, 65536
  store ptr %kernel, ptr getelementptr (%state, ptr @state, i64 0, i32 1)
  store ptr %args, ptr getelementptr (%state, ptr @state, i64 0, i32 2)
  store i64 %tasks, ptr getelementptr (%state, ptr @state, i64 0, i32 3)
  %was = atomicrmw xchg ptr @state, i64 %w seq_cst
  br label %rouse
rouse:
  %t = phi i64 [ 1, %open ], [ %t1, %next ]
  %asleep = getelementptr %slot, ptr @slots, i64 %t, i32 2
  %a = load atomic i32, ptr %asleep seq_cst, align 4
  %up = icmp eq i32 %a, 0
  br i1 %up, label %next, label %wake
wake:
  store atomic i32 0, ptr %asleep release, align 4
  %rc = call i64 (i64, ...) @syscall(i64 202, ptr %asleep, i64 129, i64 1)
  br label %next
next:
  %t1 = add i64 %t, 1
  %all = icmp eq i64 %t1, %n
  br i1 %all, label %begin, label %rouse
begin:
  call void @work(ptr %kernel, ptr %args, i64 %tasks, i64 %n, i64 %region, i64 0)
  %w2 = atomicrmw or ptr @state, i64 131072 acq_rel
  %busy0 = and i64 %w2, 255
  %busy = icmp ne i64 %busy0, 0
  br i1 %busy, label %linger, label %done
linger:
  %since = call i64 @llvm.readcyclecounter()
  br label %wait
wait:
  call void @relax(i64 %since)
  %w3 = load atomic i64, ptr @state acquire, align 128
  %inside = and i64 %w3, 255
  %more = icmp ne i64 %inside, 0
  br i1 %more, label %wait, label %done
done:
  ret void
}
"""

_ACQUIRE = """
define i64 @cnncc_pool_acquire(i64 %threads0) {
entry:
  %most = icmp ult i64 %threads0, 255
  %threads = select i1 %most, i64 %threads0, i64 255
  %several = icmp ugt i64 %threads, 1
  br i1 %several, label %try, label %alone
alone:
  ret i64 1
try:
  %w = load atomic i64, ptr @state monotonic, align 128
  %held0 = and i64 %w, 65536
  %held = icmp ne i64 %held0, 0
  br i1 %held, label %alone, label %grab
grab:
  %w1 = or i64 %w, 65536
  %pair = cmpxchg ptr @state, i64 %w, i64 %w1 acquire monotonic
  %mine = extractvalue { i64, i1 } %pair, 1
  br i1 %mine, label %ours, label %alone
ours:
  %self = call i64 @pthread_self()
  %caller = load atomic i64, ptr @caller monotonic, align 8
  store atomic i64 %self, ptr @caller monotonic, align 8
  %have = load i64, ptr @started
  %want = sub i64 %threads, 1
  %cpu = call i32 @sched_getcpu()
  %cpu0 = load i32, ptr @cpu
  %wanted = load i64, ptr @wanted
  %s0 = icmp eq i64 %self, %caller
  %s1 = icmp eq i32 %cpu, %cpu0
  %s2 = icmp eq i64 %threads, %wanted
  %s3 = icmp uge i64 %have, %want
  %s01 = and i1 %s0, %s1
  %s23 = and i1 %s2, %s3
  %same = and i1 %s01, %s23
  br i1 %same, label %ready, label %prepare
prepare:
  store i32 %cpu, ptr @cpu
  store i64 %threads, ptr @wanted
  br i1 %s3, label %place, label %hire
hire:
  call void @start(i64 %have, i64 %want)
  br label %place
place:
  call void @pin(i64 %threads, i32 %cpu, i64 %have)
  %now = load i64, ptr @started
  %got = icmp ult i64 %now, %want
  %workers = select i1 %got, i64 %now, i64 %want
  %none = icmp eq i64 %workers, 0
  br i1 %none, label %giveup, label %less
less:
  %count = add i64 %workers, 1
  ret i64 %count
giveup:
  call void @cnncc_pool_release()
  br label %alone
ready:
  ret i64 %threads
}

define void @cnncc_pool_release() {
  %w = load atomic i64, ptr @state monotonic, align 128
  %held0 = and i64 %w, 65536
  %held = icmp ne i64 %held0, 0
  %self = call i64 @pthread_self()
  %caller = load atomic i64, ptr @caller monotonic, align 8
  %same = icmp eq i64 %self, %caller
  %ours = and i1 %held, %same
  br i1 %ours, label %free, label %done
free:
  %next = add i64 %w, 67108864
  %open = and i64 %next, -65537
  %closed = or i64 %open, 131072
  store atomic i64 %closed, ptr @state release, align 128
  br label %done
done:
  ret void
}
"""

_START = """
define internal void @start(i64 %have, i64 %want) {
entry:
  %all = alloca [128 x i8], align 8
  %old = alloca [128 x i8], align 8
  %r0 = call i32 @sigfillset(ptr %all)
  %r1 = call i32 @sigdelset(ptr %all, i32 4)
  %r2 = call i32 @sigdelset(ptr %all, i32 7)
  %r3 = call i32 @sigdelset(ptr %all, i32 8)
  %r4 = call i32 @sigdelset(ptr %all, i32 11)
  %r5 = call i32 @pthread_sigmask(i32 2, ptr %all, ptr %old)
  %known = load i1, ptr @registered
  br i1 %known, label %more, label %register
register:
  store i1 true, ptr @registered
  %r6 = call i32 @__register_atfork(ptr null, ptr null, ptr @forked, ptr null)
  br label %more
more:
  %i = phi i64 [ %have, %entry ], [ %have, %register ], [ %t, %made ]
  %enough = icmp uge i64 %i, %want
  br i1 %enough, label %done, label %create
create:
  %t = add i64 %i, 1
  %handle = getelementptr %slot, ptr @slots, i64 %t, i32 3
  %asleep = getelementptr %slot, ptr @slots, i64 %t, i32 2
  store atomic i32 0, ptr %asleep monotonic, align 4
  %arg = inttoptr i64 %t to ptr
  %rc = call i32 @pthread_create(ptr %handle, ptr null, ptr @worker, ptr %arg)
  %ok = icmp eq i32 %rc, 0
  br i1 %ok, label %made, label %done
made:
  %id = load i64, ptr %handle
  %r7 = call i32 @pthread_detach(i64 %id)
  store i64 %t, ptr @started
  br label %more
done:
  %r8 = call i32 @pthread_sigmask(i32 2, ptr %old, ptr null)
  ret void
}

define internal void @pin(i64 %threads, i32 %cpu, i64 %have) {
entry:
  %set = alloca [16 x i64], align 8
  call void @llvm.memset.p0.i64(ptr %set, i8 0, i64 128, i1 false)
  %rc = call i32 @sched_getaffinity(i32 0, i64 128, ptr %set)
  %known = icmp eq i32 %rc, 0
  %inside = icmp ult i32 %cpu, 1024
  %usable = and i1 %known, %inside
  br i1 %usable, label %count, label %done
count:
  %i = phi i64 [ 0, %entry ], [ %i1, %count ]
  %sum = phi i64 [ 0, %entry ], [ %sum1, %count ]
  %p = getelementptr i64, ptr %set, i64 %i
  %bits = load i64, ptr %p
  %ones = call i64 @llvm.ctpop.i64(i64 %bits)
  %sum1 = add i64 %sum, %ones
  %i1 = add i64 %i, 1
  %end = icmp eq i64 %i1, 16
  br i1 %end, label %decide, label %count
decide:
  %enough = icmp uge i64 %sum1, %threads
  br i1 %enough, label %avoid, label %compare
avoid:
  %byte = lshr i32 %cpu, 3
  %bit0 = and i32 %cpu, 7
  %bit = trunc i32 %bit0 to i8
  %one = shl i8 1, %bit
  %keep = xor i8 %one, -1
  %q = getelementptr i8, ptr %set, i32 %byte
  %b0 = load i8, ptr %q
  %b1 = and i8 %b0, %keep
  store i8 %b1, ptr %q
  br label %compare
compare:
  %differs = call i32 @memcmp(ptr %set, ptr @mask, i64 128)
  %new = icmp ne i32 %differs, 0
  %from = select i1 %new, i64 0, i64 %have
  call void @llvm.memcpy.p0.p0.i64(ptr @mask, ptr %set, i64 128, i1 false)
  %total = load i64, ptr @started
  br label %more
more:
  %t = phi i64 [ %from, %compare ], [ %t1, %set1 ]
  %last = icmp uge i64 %t, %total
  br i1 %last, label %done, label %set1
set1:
  %t1 = add i64 %t, 1
  %handle = getelementptr %slot, ptr @slots, i64 %t1, i32 3
  %id = load i64, ptr %handle
  %r = call i32 @pthread_setaffinity_np(i64 %id, i64 128, ptr %set)
  br label %more
done:
  ret void
}

define internal void @forked() {
  %w = load atomic i64, ptr @state monotonic, align 128
  %region = and i64 %w, -67108864
  %closed = or i64 %region, 131072
  store atomic i64 %closed, ptr @state monotonic, align 128
  store i64 0, ptr @started
  ret void
}
"""


def pool_ir() -> str:
    """The pool as one LLVM module (opaque pointers, no triple); exports the three functions named above."""
    return _EXTERNAL + _STATE + _WORK + _WORKER + _RUN + _ACQUIRE + _START
