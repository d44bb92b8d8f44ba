;; Counts down from its payload (32 bits, little-endian, times 65536) and answers with the payload.
(module
  (import "wasmbus" "__guest_request" (func $request (param i32 i32)))
  (import "wasmbus" "__guest_response" (func $response (param i32 i32)))
  (memory (export "memory") 1)
  (func (export "__guest_call") (param $operation i32) (param $payload i32) (result i32)
    (local $left i64)
    (call $request (i32.const 8) (i32.const 0))
    (local.set $left (i64.shl (i64.extend_i32_u (i32.load (i32.const 0))) (i64.const 16)))
    (loop $again
      (local.set $left (i64.sub (local.get $left) (i64.const 1)))
      (br_if $again (i64.gt_s (local.get $left) (i64.const 0))))
    (call $response (i32.const 0) (local.get $payload))
    (i32.const 1)))
