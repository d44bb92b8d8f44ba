;; Gives the host pointers and lengths outside its memory; the length of the operation says where.
(module
  (import "wasmbus" "__guest_request" (func $request (param i32 i32)))
  (import "wasmbus" "__guest_response" (func $response (param i32 i32)))
  (import "wasmbus" "__guest_error" (func $error (param i32 i32)))
  (import "wasmbus" "__host_call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasmbus" "__host_response" (func $take (param i32)))
  (import "wasmbus" "__host_error" (func $take_error (param i32)))
  (import "wasmbus" "__console_log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (func $ask (param $where i32) (param $length i32)
    (drop (call $call
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (local.get $where) (local.get $length))))
  (func (export "__guest_call") (param $operation i32) (param $payload i32) (result i32)
    (block $12 (block $11 (block $10 (block $9 (block $8 (block $7 (block $6
    (block $5 (block $4 (block $3 (block $2 (block $1 (block $0
      (br_table $0 $1 $2 $3 $4 $5 $6 $7 $8 $9 $10 $11 $12 (local.get $operation)))
      (return (i32.const 1)))
      (call $response (i32.const 65530) (i32.const 7)) (return (i32.const 1))) ;; 1: begins inside, ends outside
      (call $response (i32.const -16) (i32.const 8)) (return (i32.const 1)))   ;; 2: negative
      (call $response (i32.const 0) (i32.const -1)) (return (i32.const 1)))    ;; 3: negative length
      (call $error (i32.const -1) (i32.const 1)) (return (i32.const 0)))       ;; 4
      (call $request (i32.const -8) (i32.const 0)) (return (i32.const 1)))     ;; 5
      (call $request (i32.const 0) (i32.const 65536)) (return (i32.const 1)))  ;; 6
      (call $ask (i32.const -4) (i32.const 2)) (return (i32.const 1)))         ;; 7
      (call $ask (i32.const 0) (i32.const -1)) (return (i32.const 1)))         ;; 8
      (call $ask (i32.const 0) (i32.const 1)) (call $take (i32.const -1)) (return (i32.const 1)))       ;; 9
      (call $ask (i32.const 0) (i32.const 1)) (call $take_error (i32.const -1)) (return (i32.const 1))) ;; 10
      (call $log (i32.const -2) (i32.const 10)) (return (i32.const 1)))        ;; 11
    ;; 12: nothing at impossible places is no fault
    (call $response (i32.const -1) (i32.const 0))
    (call $log (i32.const -1) (i32.const 0))
    (i32.const 1)))
