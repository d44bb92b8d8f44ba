;; The part of WASI preview 1 that needs the actor's memory, behind wasi_front.wat. As in bridge.wat pointers of the
;; actor stay in Wasm, where the engine checks them; one that is wrong traps the actor.
;;
;; Standard output and standard error become log records in the mailbox (bridge.wat has its layout): a record is a
;; line, and a line that arrives in pieces grows in place as long as nothing else was logged meanwhile; otherwise the
;; host joins the pieces. $note reads and writes the mailbox without a call or a loop in between: an epoch may pass at
;; those, and the host take the log. Words used here:
;;     8 log bytes used, 12 dropped, 128 capacity: as for the console log
;;   108 1 = the actor ended itself     112 its exit code
;;   116 where the record is that may still grow; 0 = none
;;   156 what the host is asked for: 1 the time of a clock, 2 random bytes, 3 to wait; 0 = an ordinary host call
;;   160 which clock                    168 nanoseconds: the clock's time, or how long to wait
;;   164 1 = the host gave the call up
;;   192 64 random bytes
;; Record: its first word holds the length in bits 0-27, the stream in 28-29, and in 31 that the line is not complete.
(module
  (import "actor" "memory" (memory $actor 0))
  (import "bridge" "mailbox" (memory $box 4))
  (import "host" "call" (func $host))
  (import "wasi" "table" (table $table 12 12 funcref))

  (elem (table $table) (i32.const 0) func
    $args_get $args_sizes_get $environ_sizes_get $clock_res_get $clock_time_get $fd_fdstat_get
    $fd_filestat_get $fd_read $fd_write $random_get $proc_exit $poll_oneoff)

  (func $ask (param $what i32)
    (i32.store $box (i32.const 156) (local.get $what))
    (call $host)
    (i32.store $box (i32.const 156) (i32.const 0))
    (if (i32.load $box (i32.const 164)) (then (unreachable))))

  ;; --- arguments and environment: "main.wasm", nothing

  (func $args_get (param $argv i32) (param $text i32) (result i32)
    (i32.store $actor (local.get $argv) (local.get $text))
    (i64.store $actor (local.get $text) (i64.const 0x7361772e6e69616d))
    (i32.store16 $actor offset=8 (local.get $text) (i32.const 0x6d))
    (i32.const 0))

  (func $args_sizes_get (param $count i32) (param $size i32) (result i32)
    (i32.store $actor (local.get $count) (i32.const 1))
    (i32.store $actor (local.get $size) (i32.const 10))
    (i32.const 0))

  (func $environ_sizes_get (param $count i32) (param $size i32) (result i32)
    (i32.store $actor (local.get $count) (i32.const 0))
    (i32.store $actor (local.get $size) (i32.const 0))
    (i32.const 0))

  ;; --- clocks: 0 the wall clock, 1 the monotonic one

  (func $clock_res_get (param $clock i32) (param $to i32) (result i32)
    (if (i32.gt_u (local.get $clock) (i32.const 1)) (then (return (i32.const 28))))
    (i64.store $actor (local.get $to) (i64.const 1))
    (i32.const 0))

  (func $now (param $clock i32) (result i64)
    (i32.store $box (i32.const 160) (local.get $clock))
    (call $ask (i32.const 1))
    (i64.load $box (i32.const 168)))

  (func $clock_time_get (param $clock i32) (param $precision i64) (param $to i32) (result i32)
    (if (i32.gt_u (local.get $clock) (i32.const 1)) (then (return (i32.const 28))))
    (i64.store $actor (local.get $to) (call $now (local.get $clock)))
    (i32.const 0))

  ;; --- the standard streams

  ;; All three are character devices that cannot be sought in: the C library then writes out each line as it ends,
  ;; instead of keeping it until some buffer is full, which in an actor may be never.
  (func $fd_fdstat_get (param $fd i32) (param $to i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (memory.fill $actor (local.get $to) (i32.const 0) (i32.const 24))
    (i32.store8 $actor (local.get $to) (i32.const 2))
    (i64.store $actor offset=8 (local.get $to)
      (select (i64.const 0x8000040) (i64.const 0x8000002) (local.get $fd)))
    (i32.const 0))

  (func $fd_filestat_get (param $fd i32) (param $to i32) (param $size i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (memory.fill $actor (local.get $to) (i32.const 0) (local.get $size))
    (i32.store8 $actor offset=16 (local.get $to) (i32.const 2))
    (i32.const 0))

  (func $fd_read (param $fd i32) (param $vectors i32) (param $count i32) (param $done i32) (result i32)
    (if (local.get $fd) (then (return (i32.const 8))))
    (i32.store $actor (local.get $done) (i32.const 0))
    (i32.const 0))

  (func $fd_write (param $fd i32) (param $vectors i32) (param $count i32) (param $done i32) (result i32)
    (local $total i32) (local $length i32)
    (if (i32.and (i32.ne (local.get $fd) (i32.const 1)) (i32.ne (local.get $fd) (i32.const 2)))
      (then (return (i32.const 8))))
    (block $end
      (loop $next
        (br_if $end (i32.eqz (local.get $count)))
        (local.set $length (i32.load $actor offset=4 (local.get $vectors)))
        (call $log (local.get $fd) (i32.load $actor (local.get $vectors)) (local.get $length))
        (local.set $total (i32.add (local.get $total) (local.get $length)))
        (local.set $vectors (i32.add (local.get $vectors) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store $actor (local.get $done) (local.get $total))
    (i32.const 0))

  ;; Splits text into lines.
  (func $log (param $stream i32) (param $where i32) (param $length i32)
    (local $piece i32) (local $ended i32)
    (block $end
      (loop $line
        (br_if $end (i32.eqz (local.get $length)))
        (local.set $piece (i32.const 0))
        (local.set $ended (i32.const 0))
        (block $found
          (loop $search
            (br_if $found (i32.eq (local.get $piece) (local.get $length)))
            (if (i32.eq
                  (i32.load8_u $actor (i32.add (local.get $where) (local.get $piece)))
                  (i32.const 10))
              (then
                (local.set $ended (i32.const 1))
                (br $found)))
            (local.set $piece (i32.add (local.get $piece) (i32.const 1)))
            (br $search)))
        (call $note (local.get $stream) (local.get $where) (local.get $piece) (local.get $ended))
        (local.set $piece (i32.add (local.get $piece) (local.get $ended)))
        (local.set $where (i32.add (local.get $where) (local.get $piece)))
        (local.set $length (i32.sub (local.get $length) (local.get $piece)))
        (br $line))))

  ;; Puts a piece of a line into the mailbox, into the record of that line if it is still the last one.
  (func $note (param $stream i32) (param $where i32) (param $length i32) (param $ended i32)
    (local $record i32) (local $old i32) (local $used i64)
    (local.set $record (i32.load $box (i32.const 116)))
    (if (local.get $record)
      (then
        (local.set $old (i32.load $box (local.get $record)))
        (if (i32.ne (i32.and (i32.shr_u (local.get $old) (i32.const 28)) (i32.const 3)) (local.get $stream))
          (then (local.set $record (i32.const 0))))))
    (if (local.get $record)
      (then (local.set $old (i32.and (local.get $old) (i32.const 0x0fffffff))))
      (else
        (local.set $old (i32.const 0))
        (local.set $record (i32.add (i32.load $box (i32.const 8)) (i32.const 256)))))
    (local.set $used
      (i64.and
        (i64.add
          (i64.extend_i32_u (i32.sub (local.get $record) (i32.const 256)))
          (i64.add
            (i64.extend_i32_u (local.get $old))
            (i64.add (i64.extend_i32_u (local.get $length)) (i64.const 259))))
        (i64.const -256)))
    (if (i64.gt_u (local.get $used) (i64.extend_i32_u (i32.load $box (i32.const 128))))
      (then
        (call $drop (local.get $length))
        (return)))
    (memory.copy $box $actor
      (i32.add (i32.add (local.get $record) (i32.const 4)) (local.get $old)) (local.get $where) (local.get $length))
    (i32.store $box (local.get $record)
      (i32.or
        (i32.or
          (i32.add (local.get $old) (local.get $length))
          (i32.shl (local.get $stream) (i32.const 28)))
        (i32.shl (i32.eqz (local.get $ended)) (i32.const 31))))
    (i32.store $box (i32.const 116) (select (i32.const 0) (local.get $record) (local.get $ended)))
    (i32.store $box (i32.const 8) (i32.wrap_i64 (local.get $used))))

  ;; Counts what is above the capacity, saturating: a flood must not wrap around to zero.
  (func $drop (param $length i32)
    (local $dropped i32)
    (local.set $dropped (i32.add (i32.load $box (i32.const 12)) (local.get $length)))
    (i32.store $box (i32.const 12)
      (select (i32.const -1) (local.get $dropped) (i32.lt_u (local.get $dropped) (local.get $length)))))

  ;; --- random bytes, 64 at a time

  (func $random_get (param $to i32) (param $length i32) (result i32)
    (local $chunk i32)
    (block $end
      (loop $next
        (br_if $end (i32.eqz (local.get $length)))
        (call $ask (i32.const 2))
        (local.set $chunk
          (select (local.get $length) (i32.const 64) (i32.lt_u (local.get $length) (i32.const 64))))
        (memory.copy $actor $box (local.get $to) (i32.const 192) (local.get $chunk))
        (local.set $to (i32.add (local.get $to) (local.get $chunk)))
        (local.set $length (i32.sub (local.get $length) (local.get $chunk)))
        (br $next)))
    (i32.const 0))

  ;; --- the end

  (func $proc_exit (param $code i32)
    (i32.store $box (i32.const 108) (i32.const 1))
    (i32.store $box (i32.const 112) (local.get $code))
    (unreachable))

  ;; --- waiting. A subscription has 48 bytes, in wasi_unstable 56, where a clock's members come 8 bytes later.

  ;; Nanoseconds until a clock subscription is due.
  (func $left (param $at i32) (param $later i32) (result i64)
    (local $clock i32) (local $timeout i64) (local $now i64)
    (local.set $at (i32.add (local.get $at) (local.get $later)))
    (local.set $clock (i32.load $actor offset=16 (local.get $at)))
    (local.set $timeout (i64.load $actor offset=24 (local.get $at)))
    (if (i32.gt_u (local.get $clock) (i32.const 1)) (then (return (i64.const 0))))
    (if (i32.eqz (i32.and (i32.load16_u $actor offset=40 (local.get $at)) (i32.const 1)))
      (then (return (local.get $timeout))))
    (local.set $now (call $now (local.get $clock)))
    (select
      (i64.sub (local.get $timeout) (local.get $now)) (i64.const 0)
      (i64.gt_u (local.get $timeout) (local.get $now))))

  (func $poll_oneoff
    (param $in i32) (param $out i32) (param $count i32) (param $done i32) (param $size i32) (result i32)
    (local $at i32) (local $end i32) (local $later i32) (local $ready i32) (local $kind i32) (local $error i32)
    (local $soonest i64) (local $left i64)
    (if (i32.eqz (local.get $count)) (then (return (i32.const 28))))
    ;; all of it inside the memory, or a trap
    (if (i64.gt_u
          (i64.mul (i64.extend_i32_u (local.get $count)) (i64.extend_i32_u (local.get $size)))
          (i64.const 0xffffffff))
      (then (return (i32.const 28))))
    (local.set $end (i32.add (local.get $in) (i32.mul (local.get $count) (local.get $size))))
    (local.set $later (i32.sub (local.get $size) (i32.const 48)))
    (loop $again
      (local.set $soonest (i64.const -1))
      (local.set $at (local.get $in))
      (loop $next
        (local.set $left (i64.const 0)) ;; a stream is ready, or wrong, at once
        (if (i32.eqz (i32.load8_u $actor offset=8 (local.get $at)))
          (then (local.set $left (call $left (local.get $at) (local.get $later)))))
        (if (i64.lt_u (local.get $left) (local.get $soonest)) (then (local.set $soonest (local.get $left))))
        (local.set $at (i32.add (local.get $at) (local.get $size)))
        (br_if $next (i32.ne (local.get $at) (local.get $end))))
      (if (i64.ne (local.get $soonest) (i64.const 0))
        (then
          (i64.store $box (i32.const 168) (local.get $soonest))
          (call $ask (i32.const 3))))
      (local.set $at (local.get $in))
      (loop $next
        (local.set $kind (i32.load8_u $actor offset=8 (local.get $at)))
        (local.set $left (i64.const 0))
        (local.set $error (i32.const 0))
        (if (i32.eqz (local.get $kind))
          (then
            (local.set $left (call $left (local.get $at) (local.get $later)))
            (if (i32.eqz
                  (i32.and
                    (i32.load16_u $actor offset=40 (i32.add (local.get $at) (local.get $later)))
                    (i32.const 1)))
              (then
                (local.set $left
                  (select (i64.const 0) (local.get $left) (i64.le_u (local.get $left) (local.get $soonest))))))
            (if (i32.gt_u
                  (i32.load $actor offset=16 (i32.add (local.get $at) (local.get $later)))
                  (i32.const 1))
              (then (local.set $error (i32.const 28)))))
          (else
            (local.set $error
              (call $stream_error (local.get $kind) (i32.load $actor offset=16 (local.get $at))))))
        (if (i64.eqz (local.get $left))
          (then
            (memory.fill $actor (local.get $out) (i32.const 0) (i32.const 32))
            (i64.store $actor (local.get $out) (i64.load $actor (local.get $at)))
            (i32.store16 $actor offset=8 (local.get $out) (local.get $error))
            (i32.store8 $actor offset=10 (local.get $out) (local.get $kind))
            (i32.store16 $actor offset=24 (local.get $out) ;; standard input has ended
              (i32.and (i32.eq (local.get $kind) (i32.const 1)) (i32.eqz (local.get $error))))
            (local.set $out (i32.add (local.get $out) (i32.const 32)))
            (local.set $ready (i32.add (local.get $ready) (i32.const 1)))))
        (local.set $at (i32.add (local.get $at) (local.get $size)))
        (br_if $next (i32.ne (local.get $at) (local.get $end))))
      ;; a timer of the host may fire a moment early
      (br_if $again (i32.eqz (local.get $ready))))
    (i32.store $actor (local.get $done) (local.get $ready))
    (i32.const 0))

  (func $stream_error (param $kind i32) (param $fd i32) (result i32)
    (if (i32.eq (local.get $kind) (i32.const 1))
      (then (return (select (i32.const 8) (i32.const 0) (local.get $fd)))))
    (if (i32.eq (local.get $kind) (i32.const 2))
      (then
        (return
          (select (i32.const 0) (i32.const 8)
            (i32.or (i32.eq (local.get $fd) (i32.const 1)) (i32.eq (local.get $fd) (i32.const 2)))))))
    (i32.const 28))
)
