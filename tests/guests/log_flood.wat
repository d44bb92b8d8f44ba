;; Logs a line a million times and answers; without a payload it logs for ever.
(module
  (import "wasmbus" "__console_log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "the sky is falling\1b[31m\n")
  (func (export "__guest_call") (param $operation i32) (param $payload i32) (result i32)
    (local $left i32)
    (local.set $left (i32.const 1000000))
    (loop $again
      (call $log (i32.const 0) (i32.const 24))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (i32.or (i32.eqz (local.get $payload)) (local.get $left))))
    (i32.const 1)))
