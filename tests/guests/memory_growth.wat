;; "eat" takes memory until there is none and then gives up as the allocator of a real actor does;
;; every other operation grows by as many pages as its payload is long, and succeeds.
(module
  (memory (export "memory") 1)
  (func (export "__guest_call") (param $operation i32) (param $payload i32) (result i32)
    (if (i32.ne (local.get $operation) (i32.const 3))
      (then
        (drop (memory.grow (local.get $payload)))
        (return (i32.const 1))))
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    (unreachable)))
