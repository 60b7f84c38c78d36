# make install: program, library, headers, pkg-config and CMake files, man pages, shell completions.
include(CMakePackageConfigHelpers)

if(TARGET graft_program)
  install(TARGETS graft_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  # Pages and completions are what the program says of its own option tables.
  set(pages ${PROJECT_BINARY_DIR}/share)
  add_custom_command(TARGET graft_program POST_BUILD
    COMMAND ${CMAKE_COMMAND} -DPROGRAM=$<TARGET_FILE:graft_program> -DOUT=${pages} -P ${PROJECT_SOURCE_DIR}/cmake/pages.cmake
    VERBATIM)
  install(DIRECTORY ${pages}/man1 DESTINATION ${CMAKE_INSTALL_MANDIR})
  install(FILES ${pages}/graft.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME graft)
  install(FILES ${pages}/_graft DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
  install(FILES ${pages}/graft.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
endif()

install(TARGETS graft_shared EXPORT graftTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/graft DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT graftTargets NAMESPACE graft:: FILE graftTargets.cmake DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/graft)
file(WRITE ${PROJECT_BINARY_DIR}/graftConfig.cmake "include(\${CMAKE_CURRENT_LIST_DIR}/graftTargets.cmake)\n")
write_basic_package_version_file(${PROJECT_BINARY_DIR}/graftConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/graftConfig.cmake ${PROJECT_BINARY_DIR}/graftConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/graft)

# Found from where the file lies, so that the installed tree can be moved (and --prefix need not be said twice).
file(RELATIVE_PATH GRAFT_PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
file(RELATIVE_PATH GRAFT_PC_LIBDIR ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_LIBDIR})
file(RELATIVE_PATH GRAFT_PC_INCLUDEDIR ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(${PROJECT_SOURCE_DIR}/cmake/graft.pc.in ${PROJECT_BINARY_DIR}/graft.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/graft.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/graft)
