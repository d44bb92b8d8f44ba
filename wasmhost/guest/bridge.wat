;; What stands behind the trampolines: moves bytes between the actor's memory and the mailbox, a memory of our own.
;; The engine checks every move on both sides, so a pointer of the actor can harm only the actor and never
;; reaches Python, which reads and writes the mailbox alone.
;;
;; Mailbox, little-endian 32-bit words at fixed positions (bridge.py reads the same layout):
;;     0 1 = plain: __guest_call returned 1, nothing was logged or refused, no memory is above what may be retained;
;;       the host then needs the response alone
;;     4 result of __guest_call
;;     8 log bytes used                 12 log bytes dropped
;;    16 response slot                  36 error slot
;;       slot: +0 given  +4 where  +8 length  +12 room  +16 length refused as above the limit
;;    56 next free byte                 60 1 = the mailbox could not grow
;;    64 host call: status              68 where its texts and its reply are   72 room there
;;    76 length of host response        80 length of host error
;;    84 length of a reply that does not fit yet; room is made, then the host is asked once more
;;    88 length of a host call refused as above the limit
;;    92 lengths of binding, namespace, operation, payload
;;   128 log capacity                  132 where the request is
;;   136 largest reply                 140 largest host call       (these four are set by the host)
;;   108-116, 156-168, 192: wasi.wat
;;   164 1 = the host gave the call up: the actor traps instead of going on
;;   144 pages of the mailbox          148 pages of the actor's memory      152 most pages retained (set by the host)
;;   256 log records: length (below 2^28), text, padded to 256 bytes, so that a capacity bounds lines as well as bytes
;; request: length of operation, length of payload, operation, payload
(module
  (import "actor" "memory" (memory $actor 0))
  (import "actor" "__guest_call" (func $guest_call (param i32 i32) (result i32)))
  (import "host" "call" (func $host))
  (import "trampolines" "table" (table $table 9 9 funcref))
  (memory $box (export "mailbox") 4)

  (elem (table $table) (i32.const 0) func
    $guest_request $guest_response $guest_error $host_call
    $host_response_len $host_response $host_error_len $host_error $console_log)

  (func $fits (param $where i32) (param $length i32) (result i32)
    (i64.le_u
      (i64.add (i64.extend_i32_u (local.get $where)) (i64.extend_i32_u (local.get $length)))
      (i64.shl (i64.extend_i32_u (memory.size $actor)) (i64.const 16))))

  ;; Out of the actor's memory on purpose: ends in "out of bounds memory access".
  (func $trap_outside
    (memory.copy $box $actor (i32.const 0) (i32.const -1) (i32.const -1))
    (unreachable))

  ;; The next free bytes of the mailbox, grown if need be; lives until the next operation.
  (func $reserve (param $length i32) (result i32)
    (local $where i32) (local $end i64) (local $size i64)
    (local.set $where (i32.load $box (i32.const 56)))
    (local.set $end
      (i64.and
        (i64.add (i64.add (i64.extend_i32_u (local.get $where)) (i64.extend_i32_u (local.get $length))) (i64.const 7))
        (i64.const -8)))
    (local.set $size (i64.shl (i64.extend_i32_u (memory.size $box)) (i64.const 16)))
    (if (i64.gt_u (local.get $end) (local.get $size))
      (then
        (if (i32.or
              (i64.gt_u (local.get $end) (i64.const 0xffff0000))
              (i32.eq
                (memory.grow $box
                  (i32.wrap_i64
                    (i64.shr_u
                      (i64.add (i64.sub (local.get $end) (local.get $size)) (i64.const 65535))
                      (i64.const 16))))
                (i32.const -1)))
          (then
            (i32.store $box (i32.const 60) (i32.const 1))
            (unreachable)))
        (i32.store $box (i32.const 144) (memory.size $box))))
    (i32.store $box (i32.const 56) (i32.wrap_i64 (local.get $end)))
    (local.get $where))

  ;; Takes a response or an error of the actor into a slot; the last one wins.
  (func $deliver (param $slot i32) (param $where i32) (param $length i32)
    (i32.store $box (local.get $slot) (i32.const 1))
    (i32.store $box offset=8 (local.get $slot) (i32.const 0))
    (i32.store $box offset=16 (local.get $slot) (i32.const 0))
    (if (i32.eqz (local.get $length)) (then (return)))
    (if (i32.eqz (call $fits (local.get $where) (local.get $length))) (then (call $trap_outside)))
    (if (i32.gt_u (local.get $length) (i32.load $box (i32.const 136)))
      (then
        (i32.store $box offset=16 (local.get $slot) (local.get $length))
        (return)))
    (if (i32.gt_u (local.get $length) (i32.load $box offset=12 (local.get $slot)))
      (then
        (i32.store $box offset=4 (local.get $slot) (call $reserve (local.get $length)))
        (i32.store $box offset=12 (local.get $slot) (local.get $length))))
    (memory.copy $box $actor
      (i32.load $box offset=4 (local.get $slot)) (local.get $where) (local.get $length))
    (i32.store $box offset=8 (local.get $slot) (local.get $length)))

  ;; Runs one operation, whose request lies in the mailbox.
  (func (export "invoke")
    (local $request i32) (local $result i32)
    (memory.fill $box (i32.const 0) (i32.const 0) (i32.const 128))
    (local.set $request (i32.load $box (i32.const 132)))
    (i32.store $box (i32.const 56)
      (i32.and
        (i32.add
          (i32.add (local.get $request) (i32.const 15))
          (i32.add (i32.load $box (local.get $request)) (i32.load $box offset=4 (local.get $request))))
        (i32.const -8)))
    (local.set $result
      (call $guest_call
        (i32.load $box (local.get $request))
        (i32.load $box offset=4 (local.get $request))))
    (i32.store $box (i32.const 4) (local.get $result))
    (i32.store $box (i32.const 148) (memory.size $actor))
    (i32.store $box (i32.const 0)
      (i32.and
        (i32.and
          (i32.eq (local.get $result) (i32.const 1))
          (i64.eqz (i64.load $box (i32.const 8))))
        (i32.and
          (i32.eqz (i32.load $box (i32.const 32)))
          (i32.and
            (i32.le_u (memory.size $actor) (i32.load $box (i32.const 152)))
            (i32.le_u (memory.size $box) (i32.load $box (i32.const 152))))))))

  (func $guest_request (param $operation i32) (param $payload i32)
    (local $request i32) (local $length i32)
    (local.set $request (i32.load $box (i32.const 132)))
    (local.set $length (i32.load $box (local.get $request)))
    (if (local.get $length)
      (then
        (memory.copy $actor $box
          (local.get $operation) (i32.add (local.get $request) (i32.const 8)) (local.get $length))))
    (if (i32.load $box offset=4 (local.get $request))
      (then
        (memory.copy $actor $box
          (local.get $payload)
          (i32.add (i32.add (local.get $request) (i32.const 8)) (local.get $length))
          (i32.load $box offset=4 (local.get $request))))))

  (func $guest_response (param i32 i32)
    (call $deliver (i32.const 16) (local.get 0) (local.get 1)))

  (func $guest_error (param i32 i32)
    (call $deliver (i32.const 36) (local.get 0) (local.get 1)))

  ;; Copies one text of a host call behind the ones before it; returns where it ends.
  (func $append (param $to i32) (param $where i32) (param $length i32) (result i32)
    (if (local.get $length)
      (then (memory.copy $box $actor (local.get $to) (local.get $where) (local.get $length))))
    (i32.add (local.get $to) (local.get $length)))

  (func $host_call
    (param $binding i32) (param $binding_len i32) (param $namespace i32) (param $namespace_len i32)
    (param $operation i32) (param $operation_len i32) (param $payload i32) (param $payload_len i32)
    (result i32)
    (local $total i64) (local $to i32)
    (i32.store $box (i32.const 76) (i32.const 0))
    (i32.store $box (i32.const 80) (i32.const 0))
    (i32.store $box (i32.const 84) (i32.const 0))
    (i32.store $box (i32.const 88) (i32.const 0))
    (local.set $total
      (i64.add
        (i64.add (i64.extend_i32_u (local.get $binding_len)) (i64.extend_i32_u (local.get $namespace_len)))
        (i64.add (i64.extend_i32_u (local.get $operation_len)) (i64.extend_i32_u (local.get $payload_len)))))
    (if (i32.or
          (i32.or
            (i32.and (i32.ne (local.get $binding_len) (i32.const 0))
                     (i32.eqz (call $fits (local.get $binding) (local.get $binding_len))))
            (i32.and (i32.ne (local.get $namespace_len) (i32.const 0))
                     (i32.eqz (call $fits (local.get $namespace) (local.get $namespace_len)))))
          (i32.or
            (i32.and (i32.ne (local.get $operation_len) (i32.const 0))
                     (i32.eqz (call $fits (local.get $operation) (local.get $operation_len))))
            (i32.and (i32.ne (local.get $payload_len) (i32.const 0))
                     (i32.eqz (call $fits (local.get $payload) (local.get $payload_len))))))
      (then (call $trap_outside)))
    (if (i64.gt_u (local.get $total) (i64.extend_i32_u (i32.load $box (i32.const 140))))
      (then
        (i32.store $box (i32.const 88)
          (select (i32.const -1) (i32.wrap_i64 (local.get $total))
            (i64.gt_u (local.get $total) (i64.const 0xffffffff)))))
      (else
        (call $make_room (i32.wrap_i64 (local.get $total)))
        (i32.store $box (i32.const 92) (local.get $binding_len))
        (i32.store $box (i32.const 96) (local.get $namespace_len))
        (i32.store $box (i32.const 100) (local.get $operation_len))
        (i32.store $box (i32.const 104) (local.get $payload_len))
        (local.set $to (i32.load $box (i32.const 68)))
        (local.set $to (call $append (local.get $to) (local.get $binding) (local.get $binding_len)))
        (local.set $to (call $append (local.get $to) (local.get $namespace) (local.get $namespace_len)))
        (local.set $to (call $append (local.get $to) (local.get $operation) (local.get $operation_len)))
        (drop (call $append (local.get $to) (local.get $payload) (local.get $payload_len)))))
    (call $host)
    (if (i32.load $box (i32.const 164)) (then (unreachable)))
    (if (i32.load $box (i32.const 84))
      (then
        (call $make_room (i32.load $box (i32.const 84)))
        (call $host)))
    (i32.load $box (i32.const 64)))

  (func $make_room (param $length i32)
    (if (i32.gt_u (local.get $length) (i32.load $box (i32.const 72)))
      (then
        ;; What has room at the end grows in place: calls that get larger and larger need no more than the largest.
        (if (i32.eq
              (i32.load $box (i32.const 56))
              (i32.and
                (i32.add (i32.add (i32.load $box (i32.const 68)) (i32.load $box (i32.const 72))) (i32.const 7))
                (i32.const -8)))
          (then (i32.store $box (i32.const 56) (i32.load $box (i32.const 68)))))
        (i32.store $box (i32.const 68) (call $reserve (local.get $length)))
        (i32.store $box (i32.const 72) (local.get $length)))))

  (func $host_response_len (result i32) (i32.load $box (i32.const 76)))
  (func $host_error_len (result i32) (i32.load $box (i32.const 80)))

  (func $hand_over (param $to i32) (param $length i32)
    (if (local.get $length)
      (then
        (memory.copy $actor $box (local.get $to) (i32.load $box (i32.const 68)) (local.get $length)))))
  (func $host_response (param i32) (call $hand_over (local.get 0) (i32.load $box (i32.const 76))))
  (func $host_error (param i32) (call $hand_over (local.get 0) (i32.load $box (i32.const 80))))

  (func $console_log (param $where i32) (param $length i32)
    (local $used i32) (local $end i64)
    (if (i32.eqz (local.get $length)) (then (return)))
    (if (i32.eqz (call $fits (local.get $where) (local.get $length))) (then (call $trap_outside)))
    (local.set $used (i32.load $box (i32.const 8)))
    (local.set $end
      (i64.and
        (i64.add (i64.extend_i32_u (local.get $length)) (i64.add (i64.extend_i32_u (local.get $used)) (i64.const 259)))
        (i64.const -256)))
    (if (i64.gt_u (local.get $end) (i64.extend_i32_u (i32.load $box (i32.const 128))))
      (then
        ;; saturating: a flood must not wrap around to zero
        (i32.store $box (i32.const 12)
          (select (i32.const -1)
            (i32.add (i32.load $box (i32.const 12)) (local.get $length))
            (i32.lt_u
              (i32.add (i32.load $box (i32.const 12)) (local.get $length))
              (local.get $length))))
        (return)))
    (i32.store $box (i32.const 116) (i32.const 0)) ;; a line of WASI that was not complete may not grow over this
    (i32.store $box (i32.add (i32.const 256) (local.get $used)) (local.get $length))
    (memory.copy $box $actor
      (i32.add (i32.const 260) (local.get $used)) (local.get $where) (local.get $length))
    (i32.store $box (i32.const 8) (i32.wrap_i64 (local.get $end))))
)
