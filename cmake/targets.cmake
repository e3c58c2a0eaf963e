# What every target of ours is compiled with. -ffp-contract=off: an expression means the same
# wherever it is inlined; fused multiply-adds are written out where they are meant.
add_library(refrain_flags INTERFACE)
# -fno-semantic-interposition: code that may go into a shared library is as fast as any other.
target_compile_options(refrain_flags INTERFACE -Wall -Wextra -Wno-psabi -ffp-contract=off
                                               -fno-semantic-interposition)
# Highway's targets on x86: baseline, SSE4, AVX2, AVX-512. What only has SSSE3 takes the baseline.
# Under sanitizers, what has SSE4 does too: compiling kernels takes minutes a file, and no line of
# ours is for SSE4 alone. On ARM: NEON; SVE's vectors have no size that a register tile could have.
if(REFRAIN_FUZZ)  # whose parsers compute nothing
  target_compile_definitions(refrain_flags INTERFACE HWY_COMPILE_ONLY_SCALAR)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  target_compile_definitions(refrain_flags INTERFACE
                             HWY_DISABLED_TARGETS=HWY_SVE|HWY_SVE2|HWY_SVE_256|HWY_SVE2_128)
elseif(REFRAIN_SANITIZE)
  target_compile_definitions(refrain_flags INTERFACE HWY_DISABLED_TARGETS=HWY_SSSE3|HWY_SSE4)
else()
  target_compile_definitions(refrain_flags INTERFACE HWY_DISABLED_TARGETS=HWY_SSSE3)
endif()
if(REFRAIN_WERROR)
  target_compile_options(refrain_flags INTERFACE -Werror)
endif()
if(REFRAIN_SANITIZE)
  # What is undefined ends a test as a failure. Fuzzing leaves alone what computes: parsers do not,
  # and kernels take minutes to compile.
  set(flags -fsanitize=${REFRAIN_SANITIZE} -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  if(REFRAIN_FUZZ)
    set(computes "$<IN_LIST:$<TARGET_PROPERTY:NAME>,refrain_kernels;refrain_layers;refrain_mixers>")
    set(flags "$<$<NOT:${computes}>:${flags}>")
  endif()
  target_compile_options(refrain_flags INTERFACE "${flags}")
  target_compile_definitions(refrain_flags INTERFACE _GLIBCXX_ASSERTIONS)
  target_link_options(refrain_flags INTERFACE -fsanitize=${REFRAIN_SANITIZE})
endif()

# refrain_layer(name PUBLIC ... PRIVATE ...): the static library of src/refrain/<name>.
function(refrain_layer name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/refrain/${name}/*.cc)
  add_library(refrain_${name} STATIC ${sources})
  target_include_directories(refrain_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>
                                                    $<INSTALL_INTERFACE:include>)
  target_compile_features(refrain_${name} PUBLIC cxx_std_20)
  set_target_properties(refrain_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_EXTENSIONS OFF
                                                   EXPORT_NAME ${name})
  target_link_libraries(refrain_${name} ${ARGN} PRIVATE $<BUILD_INTERFACE:refrain_flags>)
  set_property(GLOBAL APPEND PROPERTY REFRAIN_LAYERS refrain_${name})
endfunction()

# refrain_tests(folder LIBS...): one GoogleTest program of tests/<folder>/*_test.cc.
function(refrain_tests folder)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*_test.cc)
  if(sources)
    add_executable(${folder}_test ${sources})
    target_include_directories(${folder}_test PRIVATE ${PROJECT_SOURCE_DIR}/tests)
    target_link_libraries(${folder}_test PRIVATE ${ARGN} refrain_flags GTest::gtest_main)
    gtest_discover_tests(${folder}_test TEST_PREFIX "${folder}." DISCOVERY_TIMEOUT 60 DISCOVERY_MODE PRE_TEST)
  endif()
endfunction()
